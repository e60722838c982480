"""The two MLPs, their inner features cut over the tensor axis."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.models.layer_shapes import Activation, MlpShape
from megalm.parallel.tensor.dropout import InnerDropout
from megalm.parallel.tensor.linear import ColumnParallelLinear, RowParallelLinear, column_products
from megalm.parallel.tensor.recomputed import through
from megalm.param_spec import even_ranges
from megalm.recompute import Operation


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """Return the non-linearity of this name."""
    known: dict[Activation, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "gelu_new": partial(F.gelu, approximate="tanh"),
        "relu": F.relu,
        "silu": F.silu,
    }
    return known[name]


class Mlp(nn.Module):
    """Two products around a non-linearity.

    Args:
        shape: its sizes.
        axis: the tensor axis.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(self, shape: MlpShape, axis: Axis, *, sequence_parallel: bool) -> None:
        """See the class."""
        super().__init__()
        self.up_proj = _in(shape, axis, sequence_parallel)
        self.down_proj = _out(shape, axis, sequence_parallel)
        self.activation = activation(shape.activation)
        self.dropout = _inside(shape, axis)
        self.recomputed: frozenset[Operation] = frozenset()

    def forward(self, x: Tensor, token_rows: Tensor, *, again: bool = False, read: bool = True) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden].

        Args:
            x: the rows.
            token_rows: int64 [t], the run-wide numbers of the micro-batch's tokens.
            again: see ``Attention``.
            read: see ``Attention``.
        """
        return through(
            lambda up: self.dropout(self.activation(up), token_rows),
            column_products(x, [self.up_proj], keep_whole=again),
            lambda rows: self.down_proj(rows, read=read),
            recompute="activation" in self.recomputed,
        )


class GatedMlp(nn.Module):
    """Three products: a gate behind the non-linearity times the upward product, then down (Shazeer 2020).

    Args:
        shape: its sizes.
        axis: the tensor axis.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(self, shape: MlpShape, axis: Axis, *, sequence_parallel: bool) -> None:
        """See the class."""
        super().__init__()
        self.gate_proj = _in(shape, axis, sequence_parallel)
        self.up_proj = _in(shape, axis, sequence_parallel)
        self.down_proj = _out(shape, axis, sequence_parallel)
        self.activation = activation(shape.activation)
        self.dropout = _inside(shape, axis)
        self.recomputed: frozenset[Operation] = frozenset()

    def forward(self, x: Tensor, token_rows: Tensor, *, again: bool = False, read: bool = True) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden]; see ``Mlp``."""
        return through(
            lambda gate, up: self.dropout(self.activation(gate) * up, token_rows),
            column_products(x, (self.gate_proj, self.up_proj), keep_whole=again),
            lambda rows: self.down_proj(rows, read=read),
            recompute="activation" in self.recomputed,
        )


def _in(shape: MlpShape, axis: Axis, sequence_parallel: bool) -> ColumnParallelLinear:
    return ColumnParallelLinear(
        shape.hidden_size,
        shape.intermediate_size,
        axis,
        bias=shape.bias,
        std=shape.std,
        sequence_parallel=sequence_parallel,
    )


def _inside(shape: MlpShape, axis: Axis) -> InnerDropout:
    return InnerDropout(shape.dropout, even_ranges(shape.intermediate_size, axis.size)[axis.rank][0])


def _out(shape: MlpShape, axis: Axis, sequence_parallel: bool) -> RowParallelLinear:
    return RowParallelLinear(
        shape.intermediate_size,
        shape.hidden_size,
        axis,
        bias=shape.bias,
        std=shape.out_std,
        sequence_parallel=sequence_parallel,
    )
