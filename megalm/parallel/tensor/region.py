"""The two borders of tensor parallelism: where rows become whole, and where partial sums become rows.

Between blocks the activations are *rows*: [n, hidden], one row a token. Without sequence parallelism every rank of the
axis holds all rows; with it, the rows are cut over the axis, the last ranks padded with zeros, and the borders are an
all-gather and a reduce-scatter instead of nothing and an all-reduce (Korthikanti et al. 2022, section 4.2.2).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megalm import collectives
from megalm.mesh import Axis


@dataclass(frozen=True)
class Region:
    """The borders of one tensor-parallel span.

    Args:
        axis: the tensor axis.
        sequence_parallel: whether the rows between the spans are cut over the axis.
    """

    axis: Axis
    sequence_parallel: bool = False

    @property
    def rows_are_cut(self) -> bool:
        """Whether this rank holds only its share of the rows between the spans."""
        return self.sequence_parallel and self.axis.size > 1

    @property
    def partial_over(self) -> tuple[str, ...]:
        """The axes over which the gradient of a parameter applied to the rows is partial."""
        return (self.axis.name,) if self.rows_are_cut else ()

    def num_local_rows(self, num_tokens: int) -> int:
        """Return how many rows, padding included, a rank holds of ``num_tokens``."""
        return -(-num_tokens // self.axis.size) if self.rows_are_cut else num_tokens

    def whole_rows_async(self, rows: Tensor) -> tuple[Tensor, collectives.Handle]:
        """Start to make the rows whole: [n, ...] -> [tokens and padding, ...]."""
        if not self.rows_are_cut:
            return rows, collectives.Done()
        return collectives.all_gather_rows_async(rows, self.axis)

    def whole_rows(self, rows: Tensor) -> Tensor:
        """Make the rows whole: [n, ...] -> [tokens and padding, ...]."""
        whole, work = self.whole_rows_async(rows)
        work.wait()
        return whole

    def sum_to_rows_async(self, partial: Tensor) -> tuple[Tensor, collectives.Handle]:
        """Start to sum the ranks' partial results and give each its rows; ``partial`` is consumed."""
        if not self.rows_are_cut:
            return partial, collectives.all_reduce_async(partial, self.axis)
        return collectives.reduce_scatter_rows_async(self.pad(partial), self.axis)

    def sum_to_rows(self, partial: Tensor) -> Tensor:
        """Sum the ranks' partial results and give each its rows; ``partial`` is consumed."""
        rows, work = self.sum_to_rows_async(partial)
        work.wait()
        return rows

    def pad(self, whole: Tensor) -> Tensor:
        """Append rows of zeros until the axis divides their number."""
        missing = self.num_local_rows(whole.shape[0]) * self.axis.size - whole.shape[0] if self.rows_are_cut else 0
        return torch.cat([whole, whole.new_zeros(missing, *whole.shape[1:])]) if missing else whole

    def local_rows(self, whole: Tensor) -> Tensor:
        """Return this rank's share of whole rows [tokens, ...], padding included."""
        if not self.rows_are_cut:
            return whole
        count = self.num_local_rows(whole.shape[0])
        return self.pad(whole)[self.axis.rank * count : (self.axis.rank + 1) * count]


class _SumToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, region: Region) -> Tensor:
        ctx.region, ctx.num_rows = region, partial.shape[0]
        return region.sum_to_rows(partial.clone() if region.axis.size > 1 and not region.rows_are_cut else partial)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        region: Region = ctx.region
        return region.whole_rows(gradients[0])[: ctx.num_rows], None


def sum_to_rows(partial: Tensor, region: Region) -> Tensor:
    """Leave a span whose last layer gave partial sums: forward sums them, backward makes the gradient whole."""
    rows: Tensor = _SumToRows.apply(partial, region)  # type: ignore[no-untyped-call]
    return rows


class _PickRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, numbers: Tensor, region: Region) -> Tensor:
        start = region.axis.rank * rows.shape[0] if region.rows_are_cut else 0
        local = numbers - start
        foreign = (local < 0) | (local >= rows.shape[0])
        ctx.num_rows = rows.shape[0]
        ctx.save_for_backward(local, foreign)
        picked = rows[local.masked_fill(foreign, 0)].masked_fill_(foreign.unsqueeze(-1), 0)
        return collectives.all_reduce(picked, region.axis) if region.rows_are_cut else picked

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        local, foreign = ctx.saved_tensors
        ours = ~foreign
        into = gradients[0].new_zeros(ctx.num_rows, *gradients[0].shape[1:])
        return into.index_add_(0, local[ours], gradients[0][ours]), None, None


def pick_rows(rows: Tensor, numbers: Tensor, region: Region) -> Tensor:
    """Return some of the rows on every rank, for layers that all ranks apply alike; backward gives each rank its own.

    Args:
        rows: [n, ...], this rank's.
        numbers: int64 [k], of the rows of all ranks.
        region: says how they are cut.
    """
    picked: Tensor = _PickRows.apply(rows, numbers, region)  # type: ignore[no-untyped-call]
    return picked
