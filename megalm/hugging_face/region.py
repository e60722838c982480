"""Where one of our parameters lies in a tensor of Hugging Face's. No torch: the planner reads it."""

from collections.abc import Iterator
from dataclasses import dataclass

from megalm.boxes import Box


@dataclass(frozen=True)
class Region:
    """The part of one of their tensors that is one of our parameters.

    Our rows come in runs: the first begins at ``start`` of theirs, and each ``stride`` after the one before. One run is
    a plain part; more are the heads of queries, keys and values that lie side by side.

    Args:
        name: of their tensor.
        shape: of their whole tensor.
        transposed: theirs is [in, out], ours [out, in].
        start: where our first row lies.
        run: our rows that lie together.
        stride: from one run to the next.
        one_row: theirs is a matrix of one row, ours a vector.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool
    start: int
    run: int
    stride: int
    one_row: bool = False

    def places(self, box: Box) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """Yield the parts of a box of our parameter that lie together in theirs: where there, and where in the box."""
        first, stop = box.offsets[0], box.offsets[0] + box.sizes[0]
        others = Box(box.offsets[1:], box.sizes[1:]).slices()
        row = first
        while row < stop:
            number, within = divmod(row, self.run)
            length = min(self.run - within, stop - row)
            theirs = self.start + number * self.stride + within
            there = (slice(theirs, theirs + length), *others)
            here = (slice(row - first, row - first + length), *(slice(0, size) for size in box.sizes[1:]))
            if self.one_row:
                there = (slice(0, 1), *there)
            yield (there[::-1] if self.transposed else there), here
            row += length
