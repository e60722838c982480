"""What a rule keeps for a bucket in 8 bits: codes and one absmax a block for matrices, wide numbers for vectors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megalm.boxes import Box, boxes
from megalm.optim.blocks import BLOCK_SIZE, BlockGrid, Place, StateSizes, block_spec
from megalm.optim.rule import QuantizedRule
from megalm.optim.state import State
from megalm.parallel.data.bucket import Bucket, Slot
from megalm.parallel.data.stored import Stored

PIECE = 2**16
"""Elements that are wide at a time, or a row where that is longer: their tensors stay in a core's cache."""


@dataclass(frozen=True)
class Matrix:
    """What this rank owns of a matrix; it may be nothing.

    Args:
        slot: where it lies in the bucket.
        grid: the blocks of the rank's slice.
        start: where the owned range begins in the flat slice.
        stop: where it ends.
        codes: where its codes begin.
        absmax: where the numbers of its blocks begin.
    """

    slot: Slot
    grid: BlockGrid
    start: int
    stop: int
    codes: int
    absmax: int

    @property
    def blocks(self) -> range:
        """The blocks of which it has a part."""
        return self.grid.blocks(self.start, self.stop)


@dataclass(frozen=True)
class Vector:
    """What this rank owns of a vector; it may be nothing.

    Args:
        slot: where it lies in the bucket.
        start: where the owned range begins in the vector.
        stop: where it ends.
        span: in the range of the bucket that this rank owns, with the padding behind it.
        wide: its state, of the same length.
    """

    slot: Slot
    start: int
    stop: int
    span: slice
    wide: slice


@dataclass(frozen=True)
class Tile:
    """Rows of a matrix, or a part of one row, that are updated together; no two tiles have parts of the same block.

    Args:
        span: in the range that this rank owns.
        codes: in the codes.
        absmax: in the numbers of the blocks.
        rows: how many.
        width: of each.
        first: column of the whole matrix at which each begins.
        decay: whether weight decay applies.
    """

    span: slice
    codes: slice
    absmax: slice
    rows: int
    width: int
    first: int
    decay: bool

    @property
    def num_elements(self) -> int:
        """How many it has."""
        return self.rows * self.width

    @property
    def form(self) -> tuple[int, int, int]:
        """What decides how its elements lie in blocks: rows, width, place of the first column in its block."""
        return self.rows, self.width, self.first % BLOCK_SIZE


class QuantizedState(State):
    """Three flat tensors for each name of the rule: ``NAME_codes``, ``NAME_absmax``, and ``NAME`` of vectors.

    All are zero at first. A block of which this rank owns a part has its absmax here; other owners have it too.

    Args:
        rule: names them.
        bucket: of which they are the state.
        positions: this rank's position on each model axis, by name.
    """

    def __init__(self, rule: QuantizedRule, bucket: Bucket, positions: Mapping[str, int]) -> None:
        """See the class."""
        self.matrices: list[Matrix] = []
        self.vectors: list[Vector] = []
        self._names = rule.state_names
        begin, end, sizes = bucket.span.start, bucket.span.stop, StateSizes()
        for slot in bucket.slots:
            shape = tuple(slot.parameter.shape)
            first = slot.spec.local_slices(positions)[-1].start if shape else 0
            place = Place(shape, first, slot.start, slot.end)
            start, stop = place.owned(begin, end)
            more = place.sizes(begin, end)
            if len(shape) > 1:
                self.matrices.append(Matrix(slot, place.grid, start, stop, sizes.codes, sizes.absmax))
            else:
                span = slice(max(slot.start - begin, 0), max(slot.start - begin, 0) + more.wide)
                wide = slice(sizes.wide, sizes.wide + more.wide)
                self.vectors.append(Vector(slot, start, stop, span, wide))
            sizes += more
        values, tensors = bucket.owned_values, {}
        for name in rule.state_names:
            tensors[name] = values.new_zeros(sizes.wide)
            tensors[f"{name}_codes"] = values.new_zeros(sizes.codes, dtype=torch.uint8)
            tensors[f"{name}_absmax"] = values.new_zeros(sizes.absmax, dtype=torch.float32)
        super().__init__(bucket, tensors)

    def tiles(self) -> Iterator[Tile]:
        """Yield what this rank owns of matrices, in tiles of at most ``PIECE`` elements or of one row."""
        for matrix in self.matrices:
            element = matrix.start
            for box in boxes(matrix.slot.parameter.shape, matrix.start, matrix.stop):
                width = box.sizes[-1]
                rows = max(1, PIECE // width)
                for row in range(0, box.num_elements // width, rows):
                    stop = element + min(rows * width, box.num_elements - row * width)
                    yield self._tile(matrix, element, stop, width, box.offsets[-1])
                    element = stop

    def _tile(self, matrix: Matrix, start: int, stop: int, width: int, column: int) -> Tile:
        span = matrix.slot.start - self.bucket.span.start
        codes = matrix.codes - matrix.start
        absmax = matrix.absmax - matrix.blocks.start
        blocks = matrix.grid.blocks(start, stop)
        return Tile(
            slice(span + start, span + stop),
            slice(codes + start, codes + stop),
            slice(absmax + blocks.start, absmax + blocks.stop),
            (stop - start) // width,
            width,
            matrix.grid.first + column,
            matrix.slot.spec.decay,
        )

    def stored(self, prefix: str) -> Iterator[Stored]:
        """See ``State``.

        Of a block that several ranks of a shard have, the one that owns its first element stores the number.
        """
        for name in self._names:
            codes, absmax, wide = (self[f"{name}{kind}"] for kind in ("_codes", "_absmax", ""))
            for vector in self.vectors:
                spec, shape = vector.slot.spec, vector.slot.parameter.shape
                parts = _boxes(shape, vector.start, vector.stop, wide[vector.wide])
                yield Stored(f"{prefix}{name}.{spec.name}", spec, wide.dtype, parts)
            for matrix in self.matrices:
                spec, shape, blocks = matrix.slot.spec, matrix.slot.parameter.shape, matrix.blocks
                parts = _boxes(shape, matrix.start, matrix.stop, codes[matrix.codes :])
                yield Stored(f"{prefix}{name}_codes.{spec.name}", spec, codes.dtype, parts)
                first = blocks.start + matrix.grid.is_cut(matrix.start)
                rows_of_blocks, numbers = (*shape[:-1], matrix.grid.per_row), absmax[matrix.absmax :]
                yield Stored(
                    f"{prefix}{name}_absmax.{spec.name}",
                    block_spec(spec),
                    absmax.dtype,
                    _boxes(rows_of_blocks, first, blocks.stop, numbers[first - blocks.start :]),
                    _boxes(rows_of_blocks, blocks.start, first, numbers),
                )


def _boxes(shape: Sequence[int], start: int, stop: int, flat: Tensor) -> list[tuple[Box, Tensor]]:
    """Return the boxes of a flat range of a tensor of ``shape``, with their values; the range begins ``flat``."""
    found, at = [], 0
    for box in boxes(shape, start, stop):
        found.append((box, flat[at : at + box.num_elements].view(box.sizes)))
        at += box.num_elements
    return found
