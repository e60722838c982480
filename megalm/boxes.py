"""A flat range of a tensor as boxes of it: what a ZeRO shard holds of a parameter. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod


@dataclass(frozen=True)
class Box:
    """A box of a tensor whose elements are neighbours in its row-major order.

    Args:
        offsets: of its first element.
        sizes: along each dim.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """How many elements it holds."""
        return prod(self.sizes)

    def slices(self) -> tuple[slice, ...]:
        """Return where it lies in the tensor."""
        return tuple(slice(start, start + size) for start, size in zip(self.offsets, self.sizes, strict=True))

    def moved(self, by: Sequence[int]) -> tuple[int, ...]:
        """Return its offsets in a tensor of which this one begins at ``by``."""
        return tuple(start + offset for start, offset in zip(by, self.offsets, strict=True))

    def within(self, other: Sequence[slice]) -> "Box | None":
        """Return the part that lies in ``other``, by offsets in this box; ``None`` where there is none."""
        starts = [max(part.start - offset, 0) for part, offset in zip(other, self.offsets, strict=True)]
        stops = [
            min(part.stop - offset, size) for part, offset, size in zip(other, self.offsets, self.sizes, strict=True)
        ]
        sizes = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        return Box(tuple(starts), sizes) if all(size > 0 for size in sizes) else None


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """Yield, in order, the boxes that make up the flat range from ``start`` to ``stop`` of a tensor of ``shape``.

    A range of a vector is one box, of a matrix up to three: the end of a row, whole rows, the beginning of a row.
    """
    if start >= stop:
        return
    if not shape:
        yield Box((), ())
        return
    row = prod(shape[1:])
    first, begin = divmod(start, row)
    last, end = divmod(stop, row)
    if first == last:
        yield from _in_row(shape, first, begin, end)
        return
    if begin:
        yield from _in_row(shape, first, begin, row)
        first += 1
    if first < last:
        yield Box((first, *[0] * (len(shape) - 1)), (last - first, *shape[1:]))
    yield from _in_row(shape, last, 0, end)


def _in_row(shape: Sequence[int], row: int, start: int, stop: int) -> Iterator[Box]:
    for box in boxes(shape[1:], start, stop):
        yield Box((row, *box.offsets), (1, *box.sizes))


def runs(shape: Sequence[int], part: Sequence[slice]) -> Iterator[tuple[int, int]]:
    """Yield, in order, the flat ranges ``(start, stop)`` that make up a part of a tensor of ``shape``.

    Args:
        shape: of the tensor.
        part: where the part lies along each dim.
    """
    cut = len(shape)
    while cut and part[cut - 1] == slice(0, shape[cut - 1]):
        cut -= 1
    inner = prod(shape[cut:])
    if not cut:
        yield 0, inner
        return
    last = part[cut - 1]
    for outer in product(*(range(each.start, each.stop) for each in part[: cut - 1])):
        row = 0
        for index, size in zip(outer, shape[: cut - 1], strict=True):
            row = row * size + index
        yield (row * shape[cut - 1] + last.start) * inner, (row * shape[cut - 1] + last.stop) * inner
