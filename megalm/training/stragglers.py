"""Which rank is slow, and in what: every so many steps the ranks lay beside one another where their time went.

Only what a rank computes or reads itself counts: the others wait for a slow rank in their collectives, so that by the
length of a step all are equally slow. On a GPU the host's clock does not see the work, so nothing is told there.
"""

import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import NamedTuple

from megalm import collectives
from megalm.mesh import Mesh
from megalm.watch.lane import ON_DEVICE

EVERY = 50
"""Steps between two looks, at the most."""
SLOW, LOST_S = 1.3, 1.0
"""A rank is told of if it needs so many times the time of its like, and so many seconds more."""
ALIKE = 1.1
"""At the end the slowest rank is told of if it needs so many times the time of its like."""
MOST_KINDS = 12
WAITING, READING = "waiting", "reading data"


class Spent(NamedTuple):
    """Where one rank's time went.

    Args:
        rank: which.
        host: its machine.
        stage: its place on the pipeline axis: ranks of one place do the same work.
        seconds: by kind of action, ``waiting`` for others among them.
    """

    rank: int
    host: str
    stage: int
    seconds: Mapping[str, float]

    @property
    def busy(self) -> float:
        """Seconds in which it did not wait."""
        return sum(seconds for kind, seconds in self.seconds.items() if kind != WAITING)


class Slowest(NamedTuple):
    """The slowest rank.

    Args:
        spent: where its time went.
        ratio: its busy time over that of its like.
        lost_s: its busy time less that of its like.
        mostly: the kind of action that makes the most of it.
    """

    spent: Spent
    ratio: float
    lost_s: float
    mostly: str

    def __str__(self) -> str:
        """Print it for people."""
        rank, host, *_ = self.spent
        return f"rank {rank} ({host}) is slowest: {self.ratio:.2g} times the median, mostly in {self.mostly}"


def slowest(ranks: Sequence[Spent]) -> Slowest | None:
    """Return the rank that needs the most time beside those that do the same work; ``None`` where none can be told.

    Beside those of its place on the pipeline axis, or beside all where it is the only one there; the lower median, so
    that of two ranks the slow one is measured by the other.
    """
    found: list[Slowest] = []
    for spent in ranks:
        alike = [other for other in ranks if other.stage == spent.stage]
        alike = alike if len(alike) > 1 else list(ranks)
        usual = median_low(other.busy for other in alike)
        if usual <= 0:
            continue
        over = {kind: _over(kind, spent, alike) for kind in spent.seconds if kind != WAITING}
        found.append(Slowest(spent, spent.busy / usual, spent.busy - usual, max(over, key=over.__getitem__)))
    return max(found, key=lambda each: each.lost_s, default=None)


def _over(kind: str, spent: Spent, alike: Sequence[Spent]) -> float:
    return spent.seconds[kind] - median_low(other.seconds.get(kind, 0.0) for other in alike)


def summary(ranks: Sequence[Spent]) -> str | None:
    """Return one sentence about a whole run, or ``None`` where nothing is known."""
    whole = sum(sum(spent.seconds.values()) for spent in ranks)
    found = slowest(ranks)
    if found is None or not whole:
        return None
    waiting, reading = (sum(spent.seconds.get(kind, 0.0) for spent in ranks) for kind in (WAITING, READING))
    busy = whole - waiting - reading
    shares = f"{busy / whole:.0%} computing, {waiting / whole:.0%} waiting for others, {reading / whole:.0%} reading"
    who = "no rank is much slower than its like" if found.ratio < ALIKE else str(found)
    return f"the ranks' time in steps: {shares}; {who}"


class Stragglers:
    """Lays the ranks' times beside one another; every rank makes one and calls its methods after the same steps.

    Args:
        mesh: this rank's axes, and its marker, which adds up the time.
    """

    def __init__(self, mesh: Mesh) -> None:
        """See the class."""
        self._mesh = mesh
        self._looks = mesh.layout.world_size > 1 and mesh.device.type == "cpu"
        self._since = 0
        self._all: dict[int, Counter[str]] = {}
        self._last: Sequence[Spent] = ()

    def step(self, step: int) -> str | None:
        """Return one sentence if a rank is much slower than its like, and ``None`` in most steps."""
        if not self._since:
            self._since = step
        if not self._looks or step % EVERY:
            return None
        told = slowest(self._look())
        first, self._since = self._since, 0
        if told is None or told.ratio < SLOW or told.lost_s < LOST_S:
            return None
        return f"{told} (steps {first} to {step})"

    def end(self) -> str | None:
        """Return one sentence about the whole run, or ``None`` where nothing is known."""
        if not self._looks:
            return None
        self._look()
        return summary([spent._replace(seconds=dict(self._all[spent.rank])) for spent in self._last])

    def _look(self) -> Sequence[Spent]:
        mesh = self._mesh
        mine = Counter({kind: round(each, 4) for kind, each in mesh.marker.seconds().items() if _of_a_step(kind)})
        own = [mesh.rank, socket.gethostname(), mesh.coordinates.pp, dict(mine.most_common(MOST_KINDS))]
        self._last = [Spent(*each) for each in collectives.gather_objects(own, mesh.world)]
        for spent in self._last:
            self._all.setdefault(spent.rank, Counter()).update(spent.seconds)
        return self._last


def _of_a_step(kind: str) -> bool:
    """Whether a kind of action is a part of every step, on all ranks: writing and evaluating are not."""
    return kind[:1].isdigit() or kind in (*ON_DEVICE, WAITING, READING)
