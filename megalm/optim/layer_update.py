"""Updates by a layer-wise rule: two norms of each whole parameter, of which a rank may own any range.

There are two passes. The first makes the moves, in pieces whose squares are summed while they are in the cache, and
keeps them in the gradients' memory; then the squares are summed over the ranks; the second pass moves the values.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from megalm import collectives
from megalm.boxes import runs
from megalm.mesh import Axis
from megalm.optim.rule import LayerRule
from megalm.parallel.data.bucket import Bucket, Slot

PIECE = 2**17
"""Elements: the four tensors of a piece stay in a cache, and the calls for it cost little beside the work."""


@dataclass(frozen=True)
class _Piece:
    """A part of what this rank owns of a group.

    Args:
        values: flat.
        gradients: flat.
        state: flat tensors by name.
        counted: the ranges of it whose squares this rank counts.
    """

    values: Tensor
    gradients: Tensor
    state: Mapping[str, Tensor]
    counted: Sequence[slice]


@dataclass(frozen=True)
class _Group:
    """A matrix (or a tensor of more dims), or neighbouring vectors that decay alike.

    Args:
        is_matrix: whether its norms decide how far it goes.
        decay: whether all of it decays.
        rate: the factor of its learning rate.
        pieces: what this rank owns; it may be nothing.
    """

    is_matrix: bool
    decay: bool
    rate: float
    pieces: Sequence[_Piece]


class LayerUpdate:
    """Updates what this rank owns.

    Norms are summed in float64 over pieces and ranks. Every element of a matrix is counted once: of copies on several
    ranks of a model axis that of the first; but copies on other ranks of the pipeline count by themselves. So all
    ranks that hold a matrix get the same norms, bit for bit. Vectors (norms, biases) have the ratio 1.

    Args:
        rule: the update rule.
        buckets: values and complete gradients; the latter are overwritten.
        state: of each bucket, tensors of the owned range by name.
        rates: of each bucket, the factor of its learning rate.
        holders: the ranks of these axes together own one copy of each parameter.
        positions: this rank's position on each model axis, by name.
    """

    def __init__(
        self,
        rule: LayerRule,
        buckets: Sequence[Bucket],
        state: Sequence[Mapping[str, Tensor]],
        rates: Sequence[float],
        *,
        holders: Sequence[Axis],
        positions: Mapping[str, int],
    ) -> None:
        """See the class."""
        self.buckets = buckets
        self._rule, self._holders = rule, holders
        self._device = buckets[0].owned_values.device if buckets else torch.device("cpu")
        groups = [
            _Group(
                is_matrix,
                slots[0].spec.decay,
                rate,
                list(_pieces(bucket, slots, kept, positions if is_matrix else None)),
            )
            for bucket, kept, rate in zip(buckets, state, rates, strict=True)
            for is_matrix, slots in _grouped(bucket.slots)
        ]
        together = any(axis.size > 1 for axis in holders)
        # one sum over the ranks for all; alone, each group is moved while it is in the cache
        self._batches = [groups] if together and groups else [[group] for group in groups]

    def __call__(self, lr: float, step: int) -> None:
        """Make update number ``step``, from 1."""
        for batch in self._batches:
            for group, ratio in zip(batch, self._ratios(batch, step), strict=True):
                for piece in group.pieces:
                    piece.values.add_(piece.gradients, alpha=lr * group.rate * ratio)

    def _ratios(self, batch: Sequence[_Group], step: int) -> list[float]:
        """Turn the gradients of some groups into moves; return how far each group goes."""
        squares = torch.stack([self._turn(group, step) for group in batch])
        for axis in self._holders:
            collectives.all_reduce(squares, axis, scalar=True)
        return [
            self._rule.ratio(math.sqrt(values), math.sqrt(moves)) if group.is_matrix else 1.0
            for group, (values, moves) in zip(batch, squares.tolist(), strict=True)
        ]

    def _turn(self, group: _Group, step: int) -> Tensor:
        """Turn gradients into moves; return the squares of values and of moves that this rank counts, [2]."""
        squares: list[Tensor] = []
        for piece in group.pieces:
            self._rule.turn(piece.gradients, piece.values, piece.state, decay=group.decay, step=step)
            for span in piece.counted:
                squares += [torch.dot(part, part) for part in (piece.values[span], piece.gradients[span])]
        if not squares:
            return torch.zeros(2, dtype=torch.float64, device=self._device)
        return torch.stack(squares).view(-1, 2).sum(0, dtype=torch.float64)


def _grouped(slots: Sequence[Slot]) -> Iterator[tuple[bool, list[Slot]]]:
    """Yield each matrix by itself, and neighbouring vectors that decay alike together."""
    for (is_matrix, _), neighbours in groupby(slots, lambda slot: (len(slot.spec.shape) > 1, slot.spec.decay)):
        found = list(neighbours)
        yield from ((True, [slot]) for slot in found) if is_matrix else [(False, found)]


def _pieces(
    bucket: Bucket, slots: Sequence[Slot], state: Mapping[str, Tensor], positions: Mapping[str, int] | None
) -> Iterator[_Piece]:
    """Cut what this rank owns of neighbouring slots, with the padding behind them, into pieces of whole vectors.

    Kernels may treat the elements that are left over at the end of a range otherwise in the last bit; so all copies of
    an element lie in whole vectors.
    """
    counted = [] if positions is None else list(_counted(slots[0], positions))
    first, last = max(slots[0].start, bucket.span.start), min(slots[-1].end, bucket.span.stop)
    for start in range(first, last, PIECE):
        stop = min(start + PIECE, last)
        span = slice(start - bucket.span.start, stop - bucket.span.start)
        yield _Piece(
            bucket.owned_values[span],
            bucket.owned_gradients[span],
            {name: tensor[span] for name, tensor in state.items()},
            [slice(max(a, start) - start, min(b, stop) - start) for a, b in counted if a < stop and start < b],
        )


def _counted(slot: Slot, positions: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the bucket that this rank counts of a slot, a copy of another pipeline rank's too."""
    slices = replace(slot.spec, tied_to=None).owned_slices(positions)
    if slices is not None:
        for start, stop in runs(slot.parameter.shape, slices):
            yield slot.start + start, slot.start + stop
