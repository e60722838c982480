"""The words of a verdict: what is wrong with which rank, where it is, and who waits on whom."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta

from megalm.watch.diagnosis import Diagnosis, Fate, Node, Wait
from megalm.watch.position import Call, Position, compact

MOST_LINES = 24
"""Of who waits on whom: the same is said once of many ranks, so that more is seldom needed."""
MOST_NAMED = 8


def who(position: Position) -> str:
    """Return a rank with its process and machine."""
    return f"rank {position.rank} (process {position.pid} on {position.host})"


def headline(diagnosis: Diagnosis, positions: Mapping[int, Position], fates: Mapping[int, Fate], now: float) -> str:
    """Return what is wrong, in one sentence.

    Args:
        diagnosis: of these ranks.
        positions: of those that have one.
        fates: of their processes.
        now: Unix time.
    """
    ranks, first = diagnosis.ranks, positions.get(diagnosis.ranks[0])
    more = f"; so {'is' if len(ranks) == 2 else 'are'} rank {compact(sorted(ranks[1:]))}" if len(ranks) > 1 else ""
    if first is None:
        return f"rank {compact(ranks)} {'has' if len(ranks) == 1 else 'have'} not come up; the others wait for it."
    how = fates[first.rank].how if first.rank in fates else ""
    match diagnosis.cause:
        case "failed":
            assert first.end is not None
            return f"{first.end.text.rstrip()}\n{who(first)} failed {where(first, now)}."
        case "mismatch" | "circle":
            pairs = [
                f"{who(positions[rank])} is in {call or 'its save'} ({where(positions[rank], now)})"
                for rank, call in zip(ranks, diagnosis.calls, strict=True)
            ]
            return "the ranks are out of step: " + ", but ".join(pairs[:MOST_NAMED]) + "."
        case "dead":
            return f"{who(first)} {how or 'is gone'} {where(first, now)}{more}."
        case "stopped":
            return f"{who(first)} is stopped, by SIGSTOP or a debugger, {where(first, now)}{more}."
        case "silent":
            return (
                f"{who(first)} shows no life{how and f' {how}'}: stopped, or its machine gone or cut off, "
                f"{where(first, now)}{more}."
            )
        case "busy" if first.end is not None:
            return f"{who(first)} has ended in order, {where(first, now)}, and the others wait for it{more}."
        case "busy":
            return f"{who(first)} is busy {where(first, now)}, and the others wait for it{more}."
        case _:
            return (
                f"rank {compact(sorted(ranks))}: all have come to the same collective, and it does not end: the "
                "network between their machines may be cut, or blocked by a firewall."
            )


def details(diagnosis: Diagnosis, positions: Mapping[int, Position], now: float) -> list[str]:
    """Return where the ranks in question are, and who waits on whom, a line each."""
    lines = []
    for rank in diagnosis.ranks[:MOST_NAMED]:
        if (position := positions.get(rank)) is not None:
            lines += place(position, now)
    waits = waiting(diagnosis.waits, positions)
    return [*lines, *(["who waits on whom:"] if waits else []), *(f"  {line}" for line in waits)]


def where(position: Position, now: float) -> str:
    """Return the step and the action of a rank."""
    doing = [
        f"{'saving beside it' if thread else lane.doing or 'starting'} for {_seconds(now - lane.since)}"
        for thread, lane in enumerate(position.lanes)
    ]
    return f"in step {position.step}, {', '.join(doing) or 'starting'}"


def place(position: Position, now: float) -> list[str]:
    """Return where a rank is in the layout and in each of its axes."""
    coordinates = " ".join(f"{axis}={place}" for axis, place in position.coordinates.items())
    newest = ", ".join(f"{call.kind} {call.number} over {call.axis}" for call in position.begun.values())
    lines = [
        f"rank {position.rank} is {coordinates}, on {position.host}, process {position.pid}, {where(position, now)}"
    ]
    waits = [str(lane.waits) for lane in position.lanes if lane.waits is not None]
    if waits:
        lines.append(f"  it waits in {' and in '.join(waits)}")
    if newest:
        lines.append(f"  its newest collectives: {newest}")
    return lines


def waiting(waits: Sequence[Wait], positions: Mapping[int, Position]) -> list[str]:
    """Return who waits on whom; ranks that wait alike are told together."""
    alike: defaultdict[tuple[int, str, Call | None, tuple[Node, ...]], list[Wait]] = defaultdict(list)
    for wait in waits:
        position = positions[wait.node.rank]
        doing = position.lanes[wait.node.thread].doing
        alike[position.step, doing, wait.call, wait.on].append(wait)
    lines = []
    for (step, doing, call, on), same in alike.items():
        ranks = compact(sorted({wait.node.rank for wait in same}))
        missing = f"for rank {compact(sorted({node.rank for node in on}))}" if on else "to which all have come"
        what = f"in {call}" if call is not None else "for its save"
        lines.append(f"rank {ranks} (step {step}, {doing}) waits {what}{f', {missing}' if call is not None else ''}")
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]
    return lines


def last_lines(rank: int, lines: Sequence[str]) -> list[str]:
    """Return what a rank printed last."""
    return [f"last lines of rank {rank}:", *(f"  | {line}" for line in lines)] if lines else []


def _seconds(seconds: float) -> str:
    return f"{max(seconds, 0):.0f} s" if seconds < 600 else str(timedelta(seconds=round(seconds)))
