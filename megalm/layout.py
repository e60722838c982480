"""Where each rank stands: integers only, no torch.

The axis order is ``pp, dp, cp, tp`` with tp fastest, so that the ranks of a tensor-parallel group are neighbours.
Expert parallelism does not multiply the world: its groups are taken out of the dp x cp ranks of one (pp, tp).
"""

from math import prod
from typing import NamedTuple

from pydantic import Field

from megalm.errors import UserError
from megalm.section import Section

AXES = ("pp", "dp", "cp", "tp")


class Coordinates(NamedTuple):
    """A rank's place on each axis."""

    pp: int
    dp: int
    cp: int
    tp: int


class Layout(Section):
    """How many ranks each axis has."""

    pp: int = Field(1, ge=1, description="pipeline parallel: the layers are split into this many spans")
    dp: int = Field(1, ge=1, description="data parallel: the samples of a step are split over this many replicas")
    cp: int = Field(1, ge=1, description="context parallel: each sequence is split over this many ranks")
    tp: int = Field(1, ge=1, description="tensor parallel: each weight matrix is split over this many ranks")
    ep: int = Field(1, ge=1, description="expert parallel: experts are spread over this many of the dp x cp ranks")

    @property
    def world_size(self) -> int:
        """The number of ranks: ep is inside dp x cp and does not multiply it."""
        return prod(self.sizes)

    @property
    def sizes(self) -> Coordinates:
        """The size of each axis, in axis order."""
        return Coordinates(self.pp, self.dp, self.cp, self.tp)

    def check(self, world_size: int) -> None:
        """Refuse a layout that does not fill ``world_size`` ranks, or whose ep does not divide dp x cp."""
        if self.dp * self.cp % self.ep:
            raise UserError(
                f"layout.ep={self.ep} does not divide dp x cp = {self.dp} x {self.cp} = {self.dp * self.cp}, out of "
                "which expert-parallel groups are taken; choose a divisor."
            )
        if self.world_size != world_size:
            product = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, self.sizes, strict=True))
            raise UserError(
                f"layout {product} needs {self.world_size} ranks, but there are {world_size}; change the layout or the "
                "number of processes."
            )

    def coordinates(self, rank: int) -> Coordinates:
        """Return where ``rank`` stands."""
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is outside 0..{self.world_size - 1}")
        place = []
        for size in reversed(self.sizes):
            rank, position = divmod(rank, size)
            place.append(position)
        return Coordinates(*reversed(place))

    def rank(self, place: Coordinates) -> int:
        """Return the rank that stands at ``place``."""
        number = 0
        for size, position in zip(self.sizes, place, strict=True):
            if not 0 <= position < size:
                raise ValueError(f"{place} is outside {self.sizes}")
            number = number * size + position
        return number

    def ranks_along(self, axes: tuple[str, ...], rank: int) -> tuple[int, ...]:
        """Return the ranks that differ from ``rank`` only along ``axes``, in rank order, ``rank`` among them."""
        here = self.coordinates(rank)
        spans = [
            range(size) if axis in axes else (position,)
            for axis, size, position in zip(AXES, self.sizes, here, strict=True)
        ]
        return tuple(
            self.rank(Coordinates(pp, dp, cp, tp))
            for pp in spans[0]
            for dp in spans[1]
            for cp in spans[2]
            for tp in spans[3]
        )

    def expert_ranks(self, rank: int) -> tuple[int, ...]:
        """Return the expert-parallel group of ``rank``: ep neighbours among its dp x cp ranks."""
        data_ranks = self.ranks_along(("dp", "cp"), rank)
        first = data_ranks.index(rank) // self.ep * self.ep
        return data_ranks[first : first + self.ep]
