"""What a parameter knows about itself.

Initialization, gradient sums, clipping, LAMB, ZeRO ownership, checkpoints, export and the planner read the
``ParamSpec`` and nothing else: no reader matches parameter names. No torch here: the planner reads it on paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Literal

ALIGNMENT = 32
"""Elements: 64 bytes of the narrowest dtype, a whole number of any machine's vectors."""


@dataclass(frozen=True)
class Split:
    """One dim of a parameter cut over one axis.

    Args:
        axis: name of the mesh axis.
        dim: the dim that is cut.
        ranges: for each rank of the axis its ``(start, stop)`` of the whole dim. Ranges may differ in length, and may
            overlap where ranks share rows (grouped key heads): each then holds a partial gradient of the shared rows.

    Raises:
        ValueError: a range is backwards, or begins or ends before the one of the rank below.
    """

    axis: str
    dim: int
    ranges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Ranges ascend: who counts a shared row is decided by looking at lower ranks only."""
        ascend = all(low[0] <= high[0] and low[1] <= high[1] for low, high in pairwise(self.ranges))
        if not ascend or any(start < 0 or start > stop for start, stop in self.ranges):
            raise ValueError(f"the ranges of dim {self.dim} over {self.axis} do not ascend: {self.ranges}")

    @property
    def overlaps(self) -> bool:
        """Whether some rows are held by more than one rank."""
        return any(start < stop for (_, stop), (start, _) in pairwise(self.ranges))

    def owned(self, position: int) -> tuple[int, int]:
        """Return the part of the range at ``position`` that no lower position holds; it may be empty."""
        start, stop = self.ranges[position]
        below = max((end for _, end in self.ranges[:position]), default=0)
        return min(max(start, below), stop), stop


@dataclass(frozen=True)
class Init:
    """How a parameter is drawn: ``normal`` with mean 0 and standard deviation ``std``, or a constant ``value``."""

    kind: Literal["normal", "constant", "given"]
    std: float = 0.0
    value: float = 0.0

    @staticmethod
    def normal(std: float) -> "Init":
        """Draw from the stream named by (seed, parameter name)."""
        return Init("normal", std=std)

    @staticmethod
    def constant(value: float) -> "Init":
        """Fill with one number."""
        return Init("constant", value=value)

    @staticmethod
    def given() -> "Init":
        """Keep what the module's own constructor drew (it is seeded alike on every rank)."""
        return Init("given")


@dataclass(frozen=True)
class ParamSpec:
    """The whole parameter, of which this rank may hold a slice.

    Args:
        shape: the whole shape, without any padding.
        init: how it is drawn.
        split: how one dim is cut over an axis; ``None`` when every rank of a stage holds it whole.
        partial_over: axes over which each rank's gradient is only a partial sum, beside the data axes (a norm under
            sequence parallelism sees only its rows). The data axes are always summed over.
        tied_to: the name of the parameter whose values this one must equal, or ``None``.
        decay: whether weight decay applies.
        name: the whole parameter's name, set by the builder; it names the random stream and the checkpoint entry.
        blocks_from_end: how many blocks of the model come after its own, of several the first; set with the name.
    """

    shape: tuple[int, ...]
    init: Init = field(default_factory=Init.given)
    split: Split | None = None
    partial_over: tuple[str, ...] = ()
    tied_to: str | None = None
    decay: bool = True
    name: str = ""
    blocks_from_end: int = 0

    def named(self, name: str) -> "ParamSpec":
        """Return the same spec under its final name."""
        return replace(self, name=name)

    def local_range(self, dim: int, positions: Mapping[str, int]) -> tuple[int, int]:
        """Return the ``(start, stop)`` of ``dim`` held at the given positions on the axes."""
        if self.split is not None and self.split.dim == dim:
            return self.split.ranges[positions.get(self.split.axis, 0)]
        return 0, self.shape[dim]

    def local_slices(self, positions: Mapping[str, int]) -> tuple[slice, ...]:
        """Return the slices of the whole tensor held at the given positions on the axes."""
        return tuple(slice(*self.local_range(dim, positions)) for dim in range(len(self.shape)))

    def local_shape(self, positions: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape held at the given positions on the axes."""
        return tuple(part.stop - part.start for part in self.local_slices(positions))

    def room(self) -> int:
        """Return the elements of the largest slice that any rank holds."""
        if self.split is None:
            return prod(self.shape)
        longest = max(stop - start for start, stop in self.split.ranges)
        return longest * prod(size for dim, size in enumerate(self.shape) if dim != self.split.dim)

    def owned_slices(self, positions: Mapping[str, int]) -> tuple[slice, ...] | None:
        """Return the slices, of this rank's own tensor, that this rank counts.

        Over the model axes each element of the whole parameter is counted by exactly one rank: of replicas the first,
        of overlapping ranges the lowest, of tied copies the original. ``None`` when this rank counts nothing.

        Args:
            positions: this rank's position on each model axis that may split or replicate the parameter.
        """
        split_axis = self.split.axis if self.split is not None else None
        if self.tied_to is not None or any(at for axis, at in positions.items() if axis != split_axis):
            return None
        slices = [slice(0, size) for size in self.shape]
        if self.split is not None:
            position = positions.get(self.split.axis, 0)
            start, stop = self.split.owned(position)
            if start >= stop:
                return None
            first = self.split.ranges[position][0]
            slices[self.split.dim] = slice(start - first, stop - first)
        return tuple(slices)


def even_ranges(size: int, parts: int, multiple_of: int = 1) -> tuple[tuple[int, int], ...]:
    """Cut ``size`` into ``parts`` ranges as evenly as possible, each cut at a multiple of ``multiple_of``.

    Lengths differ by at most one multiple; some ranges are empty when there are fewer multiples than parts.
    """
    units = -(-size // multiple_of)
    cuts = [min(-(-units * part // parts) * multiple_of, size) for part in range(parts + 1)]
    return tuple(pairwise(cuts))


def aligned(num_elements: int) -> int:
    """Return the elements that a parameter takes in a bucket: it begins and ends at a multiple of the alignment.

    An update kernel treats whole vectors otherwise, in the last bit, than the elements that are left over at the end of
    a range, and what ranks hold beside a replicated parameter may differ: without alignment its copies would drift
    apart.
    """
    return -(-num_elements // ALIGNMENT) * ALIGNMENT
