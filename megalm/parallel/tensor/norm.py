"""Norms of the rows between blocks; under sequence parallelism each rank norms its own rows."""

import torch.nn.functional as F
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.parallel.tensor.region import Region
from megalm.param_spec import Init, ParamSpec
from megalm.parameters import new_parameter


class LayerNorm(nn.Module):
    """Layer norm with weight and bias (Ba et al. 2016).

    Args:
        hidden_size: length of a row.
        axis: the tensor axis.
        eps: added to the variance.
        sequence_parallel: whether the rows are cut over the axis; the gradients are then partial over it.
    """

    def __init__(self, hidden_size: int, axis: Axis, *, eps: float = 1e-5, sequence_parallel: bool = False) -> None:
        """See the class."""
        super().__init__()
        partial_over = Region(axis, sequence_parallel).partial_over
        one, zero = Init.constant(1.0), Init.constant(0.0)
        self.weight = new_parameter(ParamSpec((hidden_size,), one, partial_over=partial_over, decay=False), {})
        self.bias = new_parameter(ParamSpec((hidden_size,), zero, partial_over=partial_over, decay=False), {})
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Norm each row of [n, hidden]."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm with weight (Zhang and Sennrich 2019).

    Args:
        hidden_size: length of a row.
        axis: the tensor axis.
        eps: added to the mean square.
        sequence_parallel: whether the rows are cut over the axis; the gradient is then partial over it.
    """

    def __init__(self, hidden_size: int, axis: Axis, *, eps: float = 1e-6, sequence_parallel: bool = False) -> None:
        """See the class."""
        super().__init__()
        partial_over = Region(axis, sequence_parallel).partial_over
        spec = ParamSpec((hidden_size,), Init.constant(1.0), partial_over=partial_over, decay=False)
        self.weight = new_parameter(spec, {})
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Norm each row of [n, hidden]."""
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
