"""Why a run does not go on, from where its ranks are: a pure function.

Ranks that wait for one another are a graph. An edge goes from a rank that waits in a collective to each rank that has
not come to it, or cannot serve it any more. The cause is where the edges end: a rank that is dead, stopped, silent or
busy; or nowhere, where ranks wait for one another in a circle or are in different collectives: they are out of step.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from megalm.watch.position import Call, Channel, Lane, Position

CHECKPOINT = "checkpoint"
"""The group in which ranks agree on saves; these run in a thread of their own, or in training's."""

State = Literal["runs", "stopped", "silent", "dead"]
Cause = Literal["failed", "mismatch", "dead", "absent", "stopped", "silent", "circle", "busy", "unreachable"]


class Fate(NamedTuple):
    """What is known of a rank's process beside its position.

    Args:
        state: ``silent`` is one that shows no life, on a machine that cannot be looked at from here.
        how: how it died, or for how long it has been silent; may be empty.
    """

    state: State
    how: str = ""


RUNS = Fate("runs")


class Node(NamedTuple):
    """A thread of a rank: 0 trains, 1 saves beside it."""

    rank: int
    thread: int


@dataclass(frozen=True)
class Wait:
    """A thread that waits.

    Args:
        node: which thread.
        call: in which collective; ``None`` where it waits for its rank's other thread, or in one that its GPU runs.
        on: the threads that have not come, or never will; none where all have come.
    """

    node: Node
    call: Call | None
    on: tuple[Node, ...]


@dataclass(frozen=True)
class Diagnosis:
    """Why a run does not go on.

    Args:
        cause: what is wrong, in one word.
        ranks: with which ranks.
        waits: who waits on whom.
        calls: of ranks that are out of step, the collective that each of ``ranks`` is in.
    """

    cause: Cause
    ranks: tuple[int, ...]
    waits: tuple[Wait, ...]
    calls: tuple[Call | None, ...] = ()


def diagnose(positions: Mapping[int, Position], world_size: int, fates: Mapping[int, Fate]) -> Diagnosis | None:
    """Return why the run does not go on, or ``None`` where nothing is amiss.

    Args:
        positions: of the ranks that have one.
        world_size: ranks of the run; one without a position has not come up.
        fates: of their processes; one that is not named runs.
    """
    graph = _Graph(positions, world_size, fates)
    waits = tuple(graph.waits())
    failed = [rank for rank, position in positions.items() if _failed(position)]
    if failed:
        first = sorted(failed, key=lambda rank: _end_time(positions[rank]))
        return Diagnosis("failed", tuple(first), waits)
    mismatch = _mismatch(positions)
    if mismatch:
        return Diagnosis("mismatch", tuple(rank for rank, _ in mismatch), waits, tuple(call for _, call in mismatch))
    absent = tuple(rank for rank in range(world_size) if rank not in positions)
    if absent:
        return Diagnosis("absent", absent, waits)
    states: tuple[Literal["dead", "stopped", "silent"], ...] = ("dead", "stopped", "silent")
    for state in states:
        found = tuple(
            rank
            for rank, position in sorted(positions.items())
            if position.end is None and fates.get(rank, RUNS).state == state
        )
        if found:
            return Diagnosis(state, found, waits)
    return _from_graph(waits)


def _from_graph(waits: Sequence[Wait]) -> Diagnosis | None:
    """Tell what follows from who waits on whom alone: all ranks run."""
    edges = {wait.node: wait.on for wait in waits if wait.on}
    reached = {node for on in edges.values() for node in on}
    busy = sorted({node.rank for node in reached if node not in edges and node not in {wait.node for wait in waits}})
    if busy:
        return Diagnosis("busy", tuple(busy), tuple(waits))
    circle = _circle(edges)
    if circle:
        by_node = {wait.node: wait.call for wait in waits}
        return Diagnosis(
            "circle", tuple(node.rank for node in circle), tuple(waits), tuple(by_node[node] for node in circle)
        )
    stuck = tuple(sorted({wait.node.rank for wait in waits}))
    return Diagnosis("unreachable", stuck, tuple(waits)) if stuck else None


class _Graph:
    """Who waits on whom."""

    def __init__(self, positions: Mapping[int, Position], world_size: int, fates: Mapping[int, Fate]) -> None:
        self._positions, self._fates = positions, fates
        self._world_size = world_size

    def waits(self) -> Iterator[Wait]:
        for rank, position in sorted(self._positions.items()):
            for thread, lane in enumerate(position.lanes):
                node = Node(rank, thread)
                if lane.waits is not None:
                    yield Wait(node, lane.waits, self._missing(rank, lane.waits))
                elif lane.joins and len(position.lanes) > 1:
                    yield Wait(node, None, (Node(rank, 1),))
            if position.on_device and not any(lane.waits or lane.joins for lane in position.lanes):
                yield from self._on_device(position)

    def _on_device(self, position: Position) -> Iterator[Wait]:
        """Yield what the GPU of a rank waits in: whatever it was given that others have not come to."""
        for channel, call in position.begun.items():
            if channel.group != CHECKPOINT and (missing := self._missing(position.rank, call)):
                yield Wait(Node(position.rank, 0), call, missing)

    def _missing(self, rank: int, call: Call) -> tuple[Node, ...]:
        others = [other for other in call.channel.ranks if other != rank]
        return tuple(self._thread_of(other, call.channel) for other in others if not self._serves(other, call))

    def _serves(self, rank: int, call: Call) -> bool:
        position = self._positions.get(rank)
        if position is None or (position.end is not None and position.end.kind != "lost"):
            return False
        if position.end is None and self._fates.get(rank, RUNS).state != "runs":
            return False
        begun = position.begun.get(call.channel)
        return begun is not None and begun.number >= call.number

    def _thread_of(self, rank: int, channel: Channel) -> Node:
        """Return which thread of a rank would come to a channel's next collective."""
        position = self._positions.get(rank)
        saves = channel.group == CHECKPOINT and position is not None and len(position.lanes) > 1
        return Node(rank, 1 if saves else 0)


def _failed(position: Position) -> bool:
    return position.end is not None and position.end.kind not in ("finished", "lost")


def _end_time(position: Position) -> float:
    return position.end.time_s if position.end is not None else 0.0


def _mismatch(positions: Mapping[int, Position]) -> list[tuple[int, Call]]:
    """Return ranks that are in the same collective of a channel by its number, and not by axis, kind and size."""
    seen: defaultdict[tuple[Channel, int], dict[int, Call]] = defaultdict(dict)
    for rank, position in sorted(positions.items()):
        for call in (*position.begun.values(), *_waited_for(position.lanes)):
            seen[call.channel, call.number][rank] = call
    for (channel, _), calls in seen.items():
        members = {rank: call for rank, call in calls.items() if rank in channel.ranks}
        different = {call[2:]: (rank, call) for rank, call in reversed(members.items())}
        if len(different) > 1:
            return sorted(different.values(), key=lambda found: found[0])
    return []


def _waited_for(lanes: Sequence[Lane]) -> list[Call]:
    return [lane.waits for lane in lanes if lane.waits is not None]


def _circle(edges: Mapping[Node, Sequence[Node]]) -> list[Node]:
    """Return nodes that wait for one another in a circle; none where there is no circle."""
    for start in edges:
        path: list[Node] = []
        node = start
        while node in edges and node not in path:
            path.append(node)
            node = next((on for on in edges[node] if on in edges), edges[node][0])
        if node in path:
            return path[path.index(node) :]
    return []
