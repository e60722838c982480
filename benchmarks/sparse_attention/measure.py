"""One measurement: forward and backward of an attention core at one length."""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megalm.models.attention_pattern import AttentionConfig
from megalm.models.sparse_attention import SparseCore

HEADS, HEAD_DIM = 2, 64
PATTERNS: Mapping[str, Mapping[str, Any]] = {
    "dense": {"pattern": "dense"},
    "sliding_window": {"pattern": "sliding_window", "window": 256},
    "dilated": {"pattern": "dilated", "window": 128, "dilation": 4},
    "block_sparse": {
        **{"pattern": "block_sparse", "block_size": 64, "num_local_blocks": 2},
        **{"num_global_blocks": 1, "num_random_blocks": 2},
    },
}
LENGTHS = (1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class Measurement:
    """What one process found.

    Args:
        seconds: of processor time, of each repetition of forward and backward.
        peak_mib: the most memory of them beside the inputs.
    """

    seconds: list[float]
    peak_mib: float


def measure(pattern: str, length: int, repeat: int) -> Measurement:
    """Run a causal core over one sequence on one thread."""
    torch.set_num_threads(1)
    core = core_of(pattern)
    once(core, inputs_of(128))
    inputs = inputs_of(length)
    before = resident_mib()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    seconds = [once(core, inputs) for _ in range(repeat)]
    return Measurement(seconds, peak_mib() - before)


def core_of(pattern: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return what makes the rows of queries, keys and values [b, s, heads, head size]."""
    found = AttentionConfig.model_validate(PATTERNS[pattern]).of_layer(0)
    if found is not None:
        return SparseCore(found, causal=True, divisor=HEAD_DIM**0.5)

    def dense(*inputs: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in inputs)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    return dense


def inputs_of(length: int) -> list[Tensor]:
    """Return queries, keys and values of one sequence."""
    return [torch.randn(1, length, HEADS, HEAD_DIM, requires_grad=True) for _ in range(3)]


def once(core: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor]) -> float:
    """Return the processor time of a forward and a backward."""
    before = time.process_time()
    out = core(*inputs)
    torch.autograd.grad(out.sum(), inputs)
    return time.process_time() - before


def resident_mib() -> float:
    """Return the memory that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_mib() -> float:
    """Return the most memory that it has had since its peak began anew."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
