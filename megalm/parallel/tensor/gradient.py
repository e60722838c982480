"""Where the product that makes a weight's gradient goes."""

from collections.abc import Callable

from torch import Tensor

from megalm.parallel.tensor.product import Operand, add_product_to, product


def gradient_sum(parameter: Tensor) -> Tensor | None:
    """Return the buffer in which a step's gradients of ``parameter`` are summed, or ``None`` outside an engine."""
    find: Callable[[], Tensor] | None = getattr(parameter, "gradient_sum", None)
    return None if find is None else find()


def add_row_sums(bias: Tensor, dy_to: Tensor) -> Tensor | None:
    """Add the sums of ``dy``'s columns to the bias's gradient sum; without one return them for autograd to keep.

    Args:
        bias: [o].
        dy_to: [t, o], gradient of the layer's output.
    """
    total = gradient_sum(bias)
    if total is None:
        return dy_to.sum(0)
    total.add_(dy_to.sum(0, dtype=total.dtype))
    return None


def add_product(weight: Tensor, dy_to: Operand, x_ti: Operand) -> Tensor | None:
    """Add ``dy^T x`` to the weight's gradient sum in one matrix product, without a temporary of the weight's size.

    Args:
        weight: [o, i].
        dy_to: [t, o], gradient of the layer's output.
        x_ti: [t, i], its input.
    """
    total = gradient_sum(weight)
    if total is None:
        return product(dy_to.t(), x_ti)
    add_product_to(total, dy_to.t(), x_ti)
    return None
