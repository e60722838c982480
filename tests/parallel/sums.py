"""The buffer in which an engine sums a parameter's gradients."""

from torch import Tensor, nn

from megalm.parallel.tensor.gradient import gradient_sum


def sum_of(parameter: nn.Parameter) -> Tensor:
    """Return the buffer; there must be one."""
    found = gradient_sum(parameter)
    assert found is not None
    return found


def give_sum(parameter: Tensor, total: Tensor) -> Tensor:
    """Let the parameter's gradients be summed in ``total``, and return it."""
    parameter.gradient_sum = lambda: total  # type: ignore[attr-defined]
    return total
