"""The two MLPs of decoders, their inner features cut over the tensor axis."""

import torch.nn.functional as F
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.tensor.linear import ColumnParallelLinear, RowParallelLinear, column_products


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

    def forward(self, x: Tensor) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden]."""
        rows: Tensor = self.down_proj(F.gelu(self.up_proj(x), approximate=self.approximate))
        return rows


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

    def forward(self, x: Tensor) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden]."""
        gate, up = column_products(x, (self.gate_proj, self.up_proj))
        rows: Tensor = self.down_proj(F.silu(gate) * up)
        return rows
