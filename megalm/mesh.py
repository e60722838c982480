"""The live side of a layout: this rank's process group along each axis."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise

import torch
import torch.distributed as dist

from megalm.errors import UserError
from megalm.layout import AXES, Layout
from megalm.ledger import Ledger
from megalm.watch.marker import Counted, Marker


@dataclass(frozen=True)
class Axis:
    """One axis of the mesh as one rank sees it; all that a parallel layer needs to know of the others.

    Args:
        name: ``tp``, ``dp``, ...; of a combination the names joined by ``_``.
        ranks: the global ranks of this group, in order.
        rank: this rank's position among them.
        group: the process group; ``None`` when the axis has one rank.
        ledger: where the collectives over this axis are recorded; ``None`` records nothing.
        channel: counts the collectives over this axis for those who look at the rank from outside; ``None`` does not.
    """

    name: str
    ranks: tuple[int, ...]
    rank: int
    group: dist.ProcessGroup | None = None
    ledger: Ledger | None = None
    channel: Counted | None = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """The number of ranks along the axis."""
        return len(self.ranks)

    @staticmethod
    def alone(name: str = "alone") -> "Axis":
        """Return an axis of one rank: a parallel layer over it is a single-device layer."""
        return Axis(name, (0,), 0)


class Mesh:
    """Every axis of a layout as this rank sees it.

    Axes that span the same ranks share one process group: with cp=1 the axes ``dp`` and ``dp x cp`` do.

    Args:
        layout: the sizes.
        rank: this process's rank in the layout.
        device: where its tensors live.
        groups: the process groups by the ranks they span.
        upward: a second group of the pipeline's ranks; ``None`` where there is one rank.
        ledger: the account of all collectives, or ``None``.
        timeout_s: of groups that are made later.
        marker: where this rank marks what it does.
    """

    COMBINATIONS = (("tp",), ("cp",), ("dp",), ("pp",), ("dp", "cp"), ("pp", "tp"), AXES)

    def __init__(
        self,
        layout: Layout,
        rank: int,
        device: torch.device,
        groups: dict[tuple[int, ...], dist.ProcessGroup],
        upward: dist.ProcessGroup | None = None,
        ledger: Ledger | None = None,
        timeout_s: float = 600,
        marker: Marker | None = None,
    ) -> None:
        """See the class."""
        self.layout = layout
        self.rank = rank
        self.coordinates = layout.coordinates(rank)
        self.device = device
        self.ledger = ledger
        self.marker = marker or Marker()
        self._groups = groups
        self._upward = upward
        self.timeout_s = timeout_s

    @staticmethod
    def alone(device: torch.device | str = "cpu", ledger: Ledger | None = None, marker: Marker | None = None) -> "Mesh":
        """Return the mesh of one process; no process group is needed."""
        return Mesh(Layout(), 0, torch.device(device), {}, ledger=ledger, marker=marker)

    @staticmethod
    def build(
        layout: Layout,
        device: torch.device | str = "cpu",
        ledger: Ledger | None = None,
        timeout_s: float = 600,
        marker: Marker | None = None,
    ) -> "Mesh":
        """Make the process groups of this rank; every rank of the layout calls it.

        The layout takes the first ``layout.world_size`` ranks of the default process group.

        Raises:
            UserError: the layout does not fit.
        """
        if layout.world_size == 1:
            layout.check(1)
            return Mesh.alone(device, ledger, marker)
        rank, world_size = dist.get_rank(), dist.get_world_size()
        layout.check(min(world_size, layout.world_size))
        named = {"_".join(axes): layout.ranks_along(axes, rank) for axes in Mesh.COMBINATIONS}
        named["ep"] = layout.expert_ranks(rank)
        marker = marker or Marker()
        groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
        for name, ranks in named.items():
            if len(ranks) == 1 or ranks in groups:
                continue
            if len(ranks) == world_size:
                assert isinstance(dist.group.WORLD, dist.ProcessGroup)
                groups[ranks] = dist.group.WORLD
            else:
                groups[ranks] = _new_group(ranks, timeout_s, marker.channel(name, ranks))
        along = named["pp"]
        upward = _new_group(along, timeout_s, marker.channel("pp", along)) if layout.pp > 1 else None
        return Mesh(layout, rank, torch.device(device), groups, upward, ledger, timeout_s, marker)

    def axis(self, *names: str) -> Axis:
        """Return one axis, or the combination of several."""
        return self._axis("_".join(names), self.layout.ranks_along(names, self.rank))

    def _axis(self, name: str, ranks: Sequence[int]) -> Axis:
        ranks = tuple(ranks)
        assert all(below < above for below, above in pairwise(ranks))
        channel = self.marker.channel(name, ranks) if len(ranks) > 1 else None
        return Axis(name, ranks, ranks.index(self.rank), self._groups.get(ranks), self.ledger, channel)

    def subset(self, name: str, positions: Sequence[int]) -> Axis:
        """Return an axis of only some positions of one axis, this rank's among them.

        Its group is made when it is first asked for: each of its ranks asks, for several in the same order; and where
        subsets overlap the others do too, by ``leave_out``.
        """
        along = self.axis(name).ranks
        return self._own_group(name, [along[position] for position in positions])

    def leave_out(self, name: str, positions: Sequence[int]) -> None:
        """Stand aside while others make the group of a subset of which this rank is none.

        torch names a group by how many its ranks have made, so all of an axis must have made as many.
        """
        along = self.axis(name).ranks
        ranks = tuple(along[position] for position in positions)
        if len(ranks) > 1 and ranks not in self._groups:
            self._groups[ranks] = _new_group([self.rank], self.timeout_s, None)

    def shards(self, size: int) -> tuple[Axis, Axis]:
        """Cut the data axis into groups of ``size`` neighbours: return this rank's group, and its like in the others.

        Raises:
            UserError: the data ranks do not divide into such groups.
        """
        data = self.data
        if data.size % size:
            raise UserError(f"groups of {size} do not divide the {data.size} data-parallel ranks; choose a divisor.")
        if size == data.size:
            return data, self._axis("replicas", [self.rank])
        if size == 1:
            return self._axis("shard", [self.rank]), data
        first = data.rank // size * size
        shard = self._own_group("shard", data.ranks[first : first + size])
        return shard, self._own_group("replicas", data.ranks[data.rank % size :: size])

    def _own_group(self, name: str, members: Sequence[int]) -> Axis:
        ranks = tuple(members)
        if len(ranks) > 1 and ranks not in self._groups:
            self._groups[ranks] = _new_group(ranks, self.timeout_s, self.marker.channel(name, ranks))
        return self._axis(name, ranks)

    @property
    def pp(self) -> Axis:
        """The pipeline axis."""
        return self.axis("pp")

    @property
    def pp_upward(self) -> Axis:
        """The pipeline axis over a process group of its own, for what flows to earlier ranks."""
        return replace(self.pp, group=self._upward)

    @property
    def dp(self) -> Axis:
        """The data axis."""
        return self.axis("dp")

    @property
    def cp(self) -> Axis:
        """The context axis."""
        return self.axis("cp")

    @property
    def tp(self) -> Axis:
        """The tensor axis."""
        return self.axis("tp")

    @property
    def ep(self) -> Axis:
        """The expert axis, taken out of dp x cp."""
        return self._axis("ep", self.layout.expert_ranks(self.rank))

    @property
    def data(self) -> Axis:
        """The ranks that hold the same parameters and see other tokens: dp x cp; gradients are summed over it."""
        return self.axis("dp", "cp")

    @property
    def model(self) -> Axis:
        """The ranks that hold one copy of the model together: pp x tp; norms are summed over it."""
        return self.axis("pp", "tp")

    @property
    def world(self) -> Axis:
        """All ranks of the layout."""
        return self._axis("world", self.layout.ranks_along(AXES, self.rank))


def _new_group(ranks: Sequence[int], timeout_s: float, channel: Counted | None) -> dist.ProcessGroup:
    """Make a process group; only its ranks call this, and take part."""
    begun = None if channel is None else channel.begin("new_group")
    if begun is not None:
        begun.wait()
    group = dist.new_group(list(ranks), timeout=timedelta(seconds=timeout_s), use_local_synchronization=True)
    assert isinstance(group, dist.ProcessGroup)
    if begun is not None:
        begun.done()
    return group
