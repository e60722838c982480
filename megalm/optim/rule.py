"""What an update rule is: a pure function over flat ranges of values."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class UpdateRule(Protocol):
    """Turns gradients into updates, element by element.

    ``state_names`` names the tensors that it keeps, each of the values' shape, zero at first.
    """

    state_names: tuple[str, ...]

    def update(
        self, values: Tensor, gradients: Tensor, state: Mapping[str, Tensor], *, lr: float, decay: bool, step: int
    ) -> None:
        """Change ``values`` and ``state`` in place.

        Args:
            values: flat, the parameters.
            gradients: flat, complete and clipped.
            state: flat tensors by name.
            lr: learning rate of this step.
            decay: whether weight decay applies to all of the range.
            step: number of this update, from 1.
        """
        ...
