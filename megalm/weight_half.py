"""The weight half of a backward: products for which no other stage waits, put off until the schedule has time.

A layer that makes its weight's gradient by itself asks, in its backward, whether that product is put off. It knows no
schedule: the parameter carries the ``WeightHalf`` of the engine that runs it, as it carries the sum of its gradients.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

Work = Callable[[], object]
"""Makes the gradients of some weights and adds them to their sums; its ``holds``, if it has them, are what it keeps."""


class WeightHalf:
    """Collects the weight products of the input halves of backwards."""

    def __init__(self) -> None:
        """Nothing is put off yet."""
        self._waiting: list[Work] | None = None

    @contextmanager
    def put_off(self) -> Iterator[list[Work]]:
        """Within this context weight products are not made: they stand in the list that it gives."""
        waiting: list[Work] = []
        self._waiting = waiting
        try:
            yield waiting
        finally:
            self._waiting = None

    @property
    def is_putting_off(self) -> bool:
        """Whether products are being put off."""
        return self._waiting is not None

    def take(self, work: Work) -> bool:
        """Put ``work`` off if products are being put off, and return whether it was."""
        if self._waiting is None:
            return False
        self._waiting.append(work)
        return True


def put_off(parameters: Sequence[Tensor], work: Work) -> bool:
    """Put off the product that makes the gradients of ``parameters``; return False where it is to be made now.

    Args:
        parameters: weights of one layer; all of them have their gradient sums in an engine, or none.
        work: makes the product.
    """
    half: WeightHalf | None = next((p.weight_half for p in parameters if hasattr(p, "weight_half")), None)
    return half is not None and half.take(work)
