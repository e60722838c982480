"""Where the product that makes a weight's gradient goes."""

from collections.abc import Callable

from torch import Tensor

from megalm.parallel.tensor.product import Operand, add_product_to, product


def gradient_sum(parameter: Tensor) -> Tensor | None:
    """Return the buffer in which a step's gradients of ``parameter`` are summed, or ``None`` outside an engine."""
    find: Callable[[], Tensor] | None = getattr(parameter, "gradient_sum", None)
    return None if find is None else find()


def add_gradient(parameter: Tensor, gradient: Tensor) -> Tensor | None:
    """Add ``gradient`` to the parameter's sum; without one return it for autograd to keep."""
    total = gradient_sum(parameter)
    if total is None:
        return gradient
    total.add_(gradient)
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
