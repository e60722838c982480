"""Blocks of which several ranks have parts: their absmax is the largest of all parts, wherever the cuts fall."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from megalm import collectives
from megalm.mesh import Axis
from megalm.optim.blocks import columns_cut
from megalm.optim.quantized_state import Matrix, QuantizedState


class CutBlocks:
    """A list of the cut blocks of all buckets, the same on all ranks that have parts of them.

    First come the blocks that model axes cut, which all holders list alike, each matrix with all of its rows; then
    those that only shares cut, which the ranks of one shard list alike, but each position on a model axis otherwise.

    Args:
        states: of each bucket.
        holders: the ranks of these axes together own one copy of each parameter.
        positions: this rank's position on each model axis, by name; the other holders own shares.

    Attributes:
        owned: of each bucket, which of its blocks, by their place in the state, are in the list, ascending.
        listed: of each bucket, where in the list they are.
    """

    def __init__(self, states: Sequence[QuantizedState], holders: Sequence[Axis], positions: Mapping[str, int]) -> None:
        """See the class."""
        self._holders = [axis for axis in holders if axis.size > 1]
        self._model = {axis.name for axis in self._holders} & set(positions)
        matrices = [(number, matrix) for number, state in enumerate(states) for matrix in state.matrices]
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in states]
        self._size = 0
        for number, matrix in matrices:
            found[number].append(self._by_model(matrix))
        self._size_of_model = self._size
        for number, matrix in matrices:
            found[number].append(self._by_shares(matrix, states[number]))
        self.owned, self.listed = [], []
        for pairs in found:
            owned = torch.cat([pair[0] for pair in pairs] or [torch.empty(0, dtype=torch.int64)])
            listed = torch.cat([pair[1] for pair in pairs] or [torch.empty(0, dtype=torch.int64)])
            order = owned.argsort()
            self.owned.append(owned[order])
            self.listed.append(listed[order])

    def _columns(self, matrix: Matrix) -> list[int]:
        split = matrix.slot.spec.split
        return columns_cut(matrix.slot.spec) if split is not None and split.axis in self._model else []

    def _by_model(self, matrix: Matrix) -> tuple[Tensor, Tensor]:
        """List the blocks of a matrix that its own axis cuts: of those that this rank owns, the place in both."""
        columns, grid = torch.tensor(self._columns(matrix), dtype=torch.int64), matrix.grid
        begin, self._size = self._size, self._size + grid.rows * len(columns)
        blocks = torch.arange(matrix.blocks.start, matrix.blocks.stop)
        if not len(columns) or not len(blocks):
            return blocks[:0], blocks[:0]
        at = torch.searchsorted(columns, blocks % grid.per_row + grid.lowest).clamp(max=len(columns) - 1)
        cut = columns[at] == blocks % grid.per_row + grid.lowest
        listed = begin + blocks // grid.per_row * len(columns) + at
        return matrix.absmax + blocks[cut] - matrix.blocks.start, listed[cut]

    def _by_shares(self, matrix: Matrix, state: QuantizedState) -> tuple[Tensor, Tensor]:
        """List the other blocks of a matrix in which one share ends and the next begins."""
        columns, grid = self._columns(matrix), matrix.grid
        cut = sorted(
            block
            for block in {grid.block(element) for element in _ends_of_shares(matrix, state) if grid.is_cut(element)}
            if block % grid.per_row + grid.lowest not in columns
        )
        begin, self._size = self._size, self._size + len(cut)
        mine = [(block, begin + place) for place, block in enumerate(cut) if block in matrix.blocks]
        owned = torch.tensor([matrix.absmax + block - matrix.blocks.start for block, _ in mine], dtype=torch.int64)
        return owned, torch.tensor([place for _, place in mine], dtype=torch.int64)

    def new_maxima(self, num_names: int, like: Tensor) -> Tensor:
        """Return [listed blocks, names] of zeros, where each rank writes the largest of its parts."""
        return like.new_zeros(self._size, num_names)

    def reduce(self, maxima: Tensor) -> None:
        """Make them the largest of all parts: one collective over each axis that cuts blocks."""
        for axis in self._holders:
            part = maxima[: self._size_of_model] if axis.name in self._model else maxima
            if len(part):
                collectives.all_reduce(part, axis, "max", scalar=True)


def _ends_of_shares(matrix: Matrix, state: QuantizedState) -> Iterator[int]:
    """Yield where in the flat slice of a matrix a share of the bucket begins."""
    share = len(state.bucket.owned_values)
    whole = state.bucket.values.tensor.numel()
    for boundary in range(share, whole, share) if share else ():
        element = boundary - matrix.slot.start
        if 0 < element < matrix.slot.parameter.numel():
            yield element
