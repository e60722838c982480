"""What an update rule is: a pure function over flat ranges of values, element by element or parameter by parameter.

A rule sees no ranks and no parameter: what a rank owns, and whose norms are whose, is ``Optimizer``'s business.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class ElementRule(Protocol):
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


@runtime_checkable
class LayerRule(Protocol):
    """Turns gradients into moves, element by element; how far a parameter goes depends on two norms of all of it.

    Values change by learning rate x ratio x move. ``state_names`` is that of an ``ElementRule``.
    """

    state_names: tuple[str, ...]

    def turn(self, gradients: Tensor, values: Tensor, state: Mapping[str, Tensor], *, decay: bool, step: int) -> None:
        """Turn gradients into moves and change ``state``, both in place; where all else is 0 the move must be 0.

        Args:
            gradients: flat, complete and clipped; the moves when this returns.
            values: flat, a part of one parameter, or of vectors; they stay.
            state: flat tensors by name.
            decay: whether weight decay applies.
            step: number of this update, from 1.
        """
        ...

    def ratio(self, value_norm: float, move_norm: float) -> float:
        """Return the ratio of a matrix (or a tensor of more dims) from the norms of its values and of its move."""
        ...


@runtime_checkable
class QuantizedRule(ElementRule, Protocol):
    """An ``ElementRule`` whose state is kept in codes of 8 bits for matrices; ``update`` itself sees wide numbers.

    ``signed`` says of each state name whether its numbers may be negative.
    """

    signed: Mapping[str, bool]


UpdateRule = ElementRule | LayerRule
