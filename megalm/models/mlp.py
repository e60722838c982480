"""The two MLPs of decoders, their inner features cut over the tensor axis."""

import torch.nn.functional as F
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.tensor.linear import ColumnParallelLinear, RowParallelLinear, column_products
from megalm.parallel.tensor.recomputed import through
from megalm.recompute import Operation


class Mlp(nn.Module):
    """Two products around a GELU.

    Args:
        shape: the decoder's shape.
        axis: the tensor axis.
        out_std: standard deviation of the second weight.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(self, shape: DecoderShape, axis: Axis, out_std: float, sequence_parallel: bool) -> None:
        """See the class."""
        super().__init__()
        inner, hidden, bias = shape.intermediate_size, shape.hidden_size, shape.mlp_bias
        self.up_proj = ColumnParallelLinear(
            hidden, inner, axis, bias=bias, std=shape.std, sequence_parallel=sequence_parallel
        )
        self.down_proj = RowParallelLinear(
            inner, hidden, axis, bias=bias, std=out_std, sequence_parallel=sequence_parallel
        )
        self.approximate = "tanh" if shape.tanh_gelu else "none"
        self.recomputed: frozenset[Operation] = frozenset()

    def forward(self, x: Tensor, *, again: bool = False) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden]; ``again`` for a backward that follows at once and reads none."""
        return through(
            lambda up: F.gelu(up, approximate=self.approximate),
            column_products(x, [self.up_proj], keep_whole=again),
            lambda rows: self.down_proj(rows, read=not again),
            recompute="activation" in self.recomputed,
        )


class GatedMlp(nn.Module):
    """Three products: a SiLU gate times the upward product, then down (Shazeer 2020).

    Args:
        shape: the decoder's shape.
        axis: the tensor axis.
        out_std: standard deviation of the last weight.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(self, shape: DecoderShape, axis: Axis, out_std: float, sequence_parallel: bool) -> None:
        """See the class."""
        super().__init__()
        inner, hidden, bias = shape.intermediate_size, shape.hidden_size, shape.mlp_bias

        def up() -> ColumnParallelLinear:
            return ColumnParallelLinear(
                hidden, inner, axis, bias=bias, std=shape.std, sequence_parallel=sequence_parallel
            )

        self.gate_proj = up()
        self.up_proj = up()
        self.down_proj = RowParallelLinear(
            inner, hidden, axis, bias=bias, std=out_std, sequence_parallel=sequence_parallel
        )
        self.recomputed: frozenset[Operation] = frozenset()

    def forward(self, x: Tensor, *, again: bool = False) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden]; ``again`` for a backward that follows at once and reads none."""
        return through(
            lambda gate, up: F.silu(gate) * up,
            column_products(x, (self.gate_proj, self.up_proj), keep_whole=again),
            lambda rows: self.down_proj(rows, read=not again),
            recompute="activation" in self.recomputed,
        )
