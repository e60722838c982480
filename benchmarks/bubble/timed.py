"""A block whose forward, input half and weight half each take a given time, by waiting and not by computing."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.weight_half import WeightHalf, put_off


class TimedBlock(nn.Module):
    """Passes rows on, and waits.

    Args:
        seconds: of the forward, of the input half and of the weight half of the backward, each.
        half: where the weight half is put off.
        is_last: whether it makes the loss of the rows.
    """

    def __init__(self, seconds: float, half: WeightHalf, *, is_last: bool) -> None:
        """See the class."""
        super().__init__()
        self.seconds, self.is_last = seconds, is_last
        self.weight = nn.Parameter(torch.ones(1))
        self.weight.weight_half = half  # type: ignore[attr-defined]

    def forward(self, rows: Tensor | None, batch: MicroBatch) -> Tensor:
        """Return the rows, or their sum."""
        x = torch.ones(4, 8, requires_grad=True) if rows is None else rows
        waited: Tensor = _Wait.apply(x, self)  # type: ignore[no-untyped-call]
        return waited.sum() if self.is_last else waited


class _Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: TimedBlock) -> Tensor:
        ctx.block = block
        time.sleep(block.seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        block: TimedBlock = ctx.block
        time.sleep(block.seconds)
        if not put_off([block.weight], lambda: time.sleep(block.seconds)):
            time.sleep(block.seconds)
        return gradients[0], None
