"""Plain PyTorch on one GPU: autocast to bf16, fused AdamW, torch's attention; compiled if asked for."""

from typing import Any

import torch

from benchmarks.gpu.sides import Side
from benchmarks.throughput.measure import Step
from benchmarks.throughput.plain_torch import PlainGPT, learn
from benchmarks.throughput.workload import Workload


def build_step(side: Side, workload: Workload) -> Step:
    """Return the training step."""
    torch.manual_seed(workload.seed)
    model = PlainGPT(workload).cuda()
    forward: Any = torch.compile(model) if side.compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=workload.learning_rate, fused=True)

    def step(index: int) -> float:
        inputs, targets = (tokens.cuda() for tokens in workload.batch(index))
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(inputs, targets)
        learn(loss, model, optimizer, workload)
        return float(loss)

    return step
