"""What a peer cut over ranks must do by hand: sums of numbers over all ranks, and clipping by the whole norm."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def summed(value: float) -> float:
    """Return the sum of a number over all ranks, the same on each of them."""
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


def clip(parameters: Sequence[nn.Parameter], own: Sequence[nn.Parameter], max_norm: float) -> None:
    """Clip the gradients by the norm of the whole model's.

    Args:
        parameters: of this rank; their gradients are scaled.
        own: those among them that this rank counts, so that over all ranks each value counts once.
        max_norm: of the whole gradient.
    """
    norms: list[Tensor] = [parameter.grad.norm() for parameter in own if parameter.grad is not None]
    norm = summed(float(torch.stack(norms).square().sum())) ** 0.5
    nn.utils.clip_grads_with_norm_(parameters, max_norm, torch.tensor(norm))
