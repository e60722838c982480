"""The second peer: megatron-core's GPT over tensor-parallel CPU ranks, as its quick start trains it."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.throughput.measure import Step
from benchmarks.throughput.megatron_cpu import build_model
from benchmarks.throughput.over_ranks import clip, summed
from benchmarks.throughput.workload import Workload


def _own(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that this rank counts: its slices, and the whole ones on rank 0 only."""
    from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate

    return [parameter for parameter in parameters if param_is_not_tensor_parallel_duplicate(parameter)]


def build_step(workload: Workload) -> tuple[Step, int]:
    """Return the training step of this tensor-parallel rank and the number of the whole model's parameters."""
    torch.manual_seed(workload.seed)
    model = build_model(workload, tp=dist.get_world_size())
    parameters = list(model.parameters())
    own = _own(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=workload.learning_rate)
    length = workload.seq_length
    masked = torch.ones(1, 1, length, length, dtype=torch.bool).triu(1)
    positions = torch.arange(length).expand(workload.global_batch_size, -1)

    def step(index: int) -> float:
        inputs, targets = workload.batch(index)
        loss: Tensor = model(inputs, positions, masked, labels=targets).mean()
        loss.backward()
        clip(parameters, own, workload.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step, int(summed(sum(parameter.numel() for parameter in own)))
