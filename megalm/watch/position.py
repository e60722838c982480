"""Where one rank is: its step, what it does, which collectives it has begun, and in which one it waits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

MESSAGE = "message"
"""The kind of a send and of its receive."""
KINDS = (
    *("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", MESSAGE, "barrier"),
    *("rendezvous", "new_group"),
)
"""What ranks do together. The last two are how they meet, before there is a process group."""


class Channel(NamedTuple):
    """What ranks do one after the other in the same process group, in the same order on all of them; each counts it.

    Axes that span the same ranks share a group, and so a channel.

    Args:
        ranks: who takes part, in order; of a channel of messages the sender and the receiver.
        group: tells groups of the same ranks apart; empty for that of the axes.
        messages: whether messages go from the first rank to the second, and nothing else.
    """

    ranks: tuple[int, ...]
    group: str = ""
    messages: bool = False


class Call(NamedTuple):
    """One collective of a channel.

    Args:
        channel: which one.
        number: from 1, as the rank counts; ranks in step count alike.
        axis: over which axis.
        kind: one of ``KINDS``.
        payload: bytes, as the ledger counts them.
    """

    channel: Channel
    number: int
    axis: str
    kind: str
    payload: int

    def __str__(self) -> str:
        """Print it for people: ``all_reduce 57 over tp (ranks 2-3), 8.0 KiB``."""
        ranks, sized = self.channel.ranks, f", {size(self.payload)}" if self.payload else ""
        if self.channel.messages:
            return f"message {self.number} over {self.axis} from rank {ranks[0]} to rank {ranks[1]}{sized}"
        return f"{self.kind} {self.number} over {self.axis} (ranks {compact(ranks)}){sized}"


@dataclass(frozen=True)
class Lane:
    """What one thread of a rank does: training, or a save beside it.

    Args:
        doing: the action of the program, as ``2F0``, or what else in a few words; empty for a thread that rests.
        since: Unix time of the last change.
        waits: the collective that it waits in.
        joins: whether it waits for the other thread of its rank.
    """

    doing: str
    since: float
    waits: Call | None = None
    joins: bool = False


@dataclass(frozen=True)
class End:
    """How a rank has ended, as it says itself.

    Args:
        kind: ``finished`` in order; ``refused`` with a sentence; ``crashed`` with a traceback; ``interrupted``;
            ``lost`` a rank that it waited for.
        text: the sentence or the traceback.
        time_s: Unix time.
    """

    kind: Literal["finished", "refused", "crashed", "interrupted", "lost"]
    text: str = ""
    time_s: float = 0.0


@dataclass(frozen=True)
class Position:
    """One rank.

    Args:
        rank: which.
        world_size: of how many.
        host: its machine's name.
        pid: its process there.
        coordinates: its place in the layout, by axis.
        step: the step that it works on, from 1; 0 before the first.
        lanes: what its threads do; training first.
        begun: the newest collective of each channel that it has begun.
        machine: tells whether ``pid`` can be looked at from another process.
        born: when the process began, in the machine's own count: two processes with one number differ in it.
        launch: which launch it belongs to.
        started: Unix time of its start.
        beats: grows as long as the process runs.
        beat_s: Unix time of the last beat.
        on_device: whether it hands its work to a GPU, whose waits are not seen here.
        end: how it ended, if it said so.
    """

    rank: int
    world_size: int
    host: str
    pid: int
    coordinates: Mapping[str, int]
    step: int
    lanes: Sequence[Lane]
    begun: Mapping[Channel, Call] = field(default_factory=dict)
    machine: str = ""
    born: int = 0
    launch: str = ""
    started: float = 0.0
    beats: int = 0
    beat_s: float = 0.0
    on_device: bool = False
    end: End | None = None


def compact(ranks: Sequence[int]) -> str:
    """Return ranks in few words: ``0-7,64-71``, with a stride ``0-120:8``."""
    texts, start = [], 0
    while start < len(ranks):
        stop = start + 1
        stride = ranks[stop] - ranks[start] if stop < len(ranks) else 1
        while stop < len(ranks) and ranks[stop] - ranks[stop - 1] == stride and stride > 0:
            stop += 1
        if stop - start < (2 if stride == 1 else 3):
            stop = start + 1
        last = ranks[stop - 1]
        dash = "" if stop - start == 1 else f"-{last}" if stride == 1 else f"-{last}:{stride}"
        texts.append(f"{ranks[start]}{dash}")
        start = stop
    return ",".join(texts)


def expand(text: str) -> tuple[int, ...]:
    """Read ``compact`` back."""
    ranks: list[int] = []
    for part in text.split(","):
        span, _, stride = part.partition(":")
        first, _, last = span.partition("-")
        ranks += range(int(first), int(last or first) + 1, int(stride or 1))
    return tuple(ranks)


def size(num_bytes: int) -> str:
    """Return bytes as ``512 B`` or ``8.0 KiB``."""
    units = [1024**power for power in range(5)]
    for unit, above in pairwise(units):
        if num_bytes < above:
            name = ("B", "KiB", "MiB", "GiB")[units.index(unit)]
            return f"{num_bytes} B" if unit == 1 else f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes / 1024**4:.1f} TiB"
