"""Token embedding with the vocabulary cut over the tensor axis."""

from typing import Any

import torch
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.parallel.tensor.gradient import gradient_sum
from megalm.parallel.tensor.region import Region, sum_to_rows
from megalm.parallel.tensor.vocab import vocab_ranges
from megalm.param_spec import Init, ParamSpec, Split
from megalm.parameters import new_parameter


class _Lookup(torch.autograd.Function):
    """Rows of the local part of the table; tokens of other ranks give zeros."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, start: int) -> Tensor:
        local = tokens - start
        foreign = (local < 0) | (local >= weight.shape[0])
        ctx.weight = weight
        ctx.save_for_backward(local, foreign)
        return weight[local.masked_fill(foreign, 0)].masked_fill_(foreign.unsqueeze(-1), 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None, None]:
        local, foreign = ctx.saved_tensors
        total = gradient_sum(ctx.weight)
        into = torch.zeros_like(ctx.weight) if total is None else total
        ours = ~foreign
        into.index_add_(0, local[ours], gradients[0][ours].to(into.dtype))
        return None, into if total is None else None, None


class VocabParallelEmbedding(nn.Module):
    """A table of token vectors, its rows cut over the axis; it ends a span.

    Args:
        vocab_size: whole number of tokens; the axis need not divide it.
        hidden_size: length of a vector.
        axis: the tensor axis.
        std: standard deviation of the table.
        sequence_parallel: whether the rows are cut over the axis between blocks.
    """

    def __init__(
        self, vocab_size: int, hidden_size: int, axis: Axis, *, std: float = 0.02, sequence_parallel: bool = False
    ) -> None:
        """See the class."""
        super().__init__()
        self.region = Region(axis, sequence_parallel)
        split = Split(axis.name, 0, vocab_ranges(vocab_size, axis.size))
        self.start = split.ranges[axis.rank][0]
        spec = ParamSpec((vocab_size, hidden_size), Init.normal(std), split)
        self.weight = new_parameter(spec, {axis.name: axis.rank})

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors [n, hidden] of ``tokens`` [t]."""
        partial: Tensor = _Lookup.apply(tokens, self.weight, self.start)  # type: ignore[no-untyped-call]
        return sum_to_rows(partial, self.region)
