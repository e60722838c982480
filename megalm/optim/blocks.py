"""Blocks of a matrix that share one absmax, in coordinates of the whole matrix, and the state's sizes. No torch.

A block is ``BLOCK_SIZE`` neighbours in one row, from a multiple of it on; the last block of a row may be shorter. Where
a rank holds only some columns, or a flat range, it may hold a part of a block: other ranks hold the rest. Vectors
(norms, biases), which are few and delicate, have no blocks.
"""

from dataclasses import dataclass, replace
from math import prod

from megalm.param_spec import ParamSpec, Split

BLOCK_SIZE = 256
"""Elements: so few that an outlier spoils few others, so many that their float32 absmax costs 1/64 byte each."""


@dataclass(frozen=True)
class BlockGrid:
    """The blocks that a rank's slice of a matrix has a part of, numbered row by row.

    Args:
        rows: of the slice, all dims but the last multiplied.
        columns: of the slice.
        first: column of the whole matrix with which it begins.
    """

    rows: int
    columns: int
    first: int

    @property
    def lowest(self) -> int:
        """The first block of a row, counted in the whole row."""
        return self.first // BLOCK_SIZE

    @property
    def per_row(self) -> int:
        """Blocks of a row."""
        return -(-(self.first + self.columns) // BLOCK_SIZE) - self.lowest

    def block(self, element: int) -> int:
        """Return the block of an element by its place in the flat slice."""
        row, column = divmod(element, self.columns)
        return row * self.per_row + (self.first + column) // BLOCK_SIZE - self.lowest

    def blocks(self, start: int, stop: int) -> range:
        """Return the blocks that a flat range of the slice has a part of."""
        return range(self.block(start), self.block(stop - 1) + 1) if start < stop else range(0)

    def is_cut(self, element: int) -> bool:
        """Whether an element and the one before it are of the same block."""
        return element > 0 and self.block(element - 1) == self.block(element)


def block_spec(spec: ParamSpec) -> ParamSpec:
    """Return what the blocks of a matrix are as a tensor: one row of them a row.

    Ranks that have parts of the same block overlap there, as those do that share rows.
    """
    split = spec.split
    if split is not None and split.dim == len(spec.shape) - 1:
        ranges = tuple((start // BLOCK_SIZE, -(-stop // BLOCK_SIZE)) for start, stop in split.ranges)
        split = Split(split.axis, split.dim, ranges)
    return replace(spec, shape=(*spec.shape[:-1], -(-spec.shape[-1] // BLOCK_SIZE)), split=split)


def columns_cut(spec: ParamSpec) -> list[int]:
    """Return the blocks of a whole row that the ranks of the spec's own axis cut, ascending."""
    if spec.split is None or spec.split.dim != len(spec.shape) - 1:
        return []
    cuts = {cut for part in spec.split.ranges for cut in part if cut % BLOCK_SIZE and cut < spec.shape[-1]}
    return sorted({cut // BLOCK_SIZE for cut in cuts})


@dataclass(frozen=True)
class StateSizes:
    """How many numbers of each kind a rank keeps for one name of a rule.

    Args:
        codes: of one byte, one for each element of a matrix.
        absmax: float32, one for each block of which the rank has a part.
        wide: as wide as the values, one for each element of a vector, its padding included.
    """

    codes: int = 0
    absmax: int = 0
    wide: int = 0

    def __add__(self, other: "StateSizes") -> "StateSizes":
        """Return the sizes of both together."""
        return StateSizes(self.codes + other.codes, self.absmax + other.absmax, self.wide + other.wide)

    def num_bytes(self, width: int) -> int:
        """Return the bytes of all of them; ``width`` are those of a value."""
        return self.codes + 4 * self.absmax + width * self.wide


@dataclass(frozen=True)
class Place:
    """Where a rank's slice of a parameter lies in its bucket.

    Args:
        shape: of the slice.
        first: where its last dim begins in the whole parameter.
        start: its first element in the bucket.
        end: where the next slice begins, the padding passed.
    """

    shape: tuple[int, ...]
    first: int
    start: int
    end: int

    @property
    def grid(self) -> BlockGrid:
        """The blocks of the slice."""
        return BlockGrid(prod(self.shape[:-1]), self.shape[-1], self.first)

    def owned(self, start: int, stop: int) -> tuple[int, int]:
        """Return the flat range of the slice that lies in a range of the bucket; (0, 0) for none."""
        low, high = max(self.start, start), min(self.start + prod(self.shape), stop)
        return (low - self.start, high - self.start) if low < high else (0, 0)

    def sizes(self, start: int, stop: int) -> StateSizes:
        """Return what is kept for the part that lies in a range of the bucket."""
        if len(self.shape) < 2:
            return StateSizes(wide=max(min(self.end, stop) - max(self.start, start), 0))
        low, high = self.owned(start, stop)
        return StateSizes(codes=high - low, absmax=len(self.grid.blocks(low, high)))
