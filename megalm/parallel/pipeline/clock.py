"""Times a program on paper: when each action starts and ends if every stage costs what it is said to cost. No torch."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from megalm.parallel.pipeline.action import COMPUTE, RECEIVES, Action, Kind
from megalm.parallel.pipeline.needs import needs, run_order
from megalm.parallel.pipeline.program import Program

Number = float | Fraction
"""Integers and fractions stay exact in every result."""


@dataclass(frozen=True)
class StageCost:
    """What one micro-batch costs on one stage.

    Args:
        forward: seconds.
        backward_input: seconds of ``I``.
        backward_weight: seconds of ``W``; a whole backward ``B`` takes both.
        transfer: seconds from the end of an action until the stage's output, or its input's gradient, has arrived on
            another rank. It keeps neither rank busy.
        kept: what the stage keeps from the forward until ``B`` or ``I``, in any unit.
        kept_for_weight: what it keeps from ``I`` until ``W``.
    """

    forward: Number
    backward_input: Number
    backward_weight: Number
    transfer: Number = 0
    kept: Number = 1
    kept_for_weight: Number = 1

    def of(self, kind: Kind) -> Number:
        """Return how long a rank is busy with an action: no time unless it computes."""
        match kind:
            case Kind.FORWARD:
                return self.forward
            case Kind.BACKWARD:
                return self.backward_input + self.backward_weight
            case Kind.BACKWARD_INPUT:
                return self.backward_input
            case Kind.BACKWARD_WEIGHT:
                return self.backward_weight
        return 0


class Span(NamedTuple):
    """When one rank computes one action."""

    rank: int
    action: Action
    start: Number
    end: Number


@dataclass(frozen=True)
class Timetable:
    """When everything is computed, and what follows from it.

    Args:
        spans: rank by rank, each in the order of its list; the first of all starts at 0.
        num_ranks: idle ones included.
        peak: for each rank the most that its stages keep at once, in the unit of ``StageCost.kept``.
    """

    spans: tuple[Span, ...]
    num_ranks: int
    peak: tuple[Number, ...]

    @property
    def makespan(self) -> Number:
        """The end of the last action."""
        return max((span.end for span in self.spans), default=0)

    @property
    def bubble(self) -> Number:
        """The share of all ranks' time, from the first start to the last end, in which they compute nothing."""
        whole = self.num_ranks * self.makespan
        busy = sum((span.end - span.start for span in self.spans), start=Fraction(0))
        return 1 - busy / whole if whole else Fraction(0)


def time_program(program: Program, costs: Sequence[StageCost]) -> Timetable:
    """Time a program whose ranks start together, and compute each action as soon as its place and its needs allow.

    With or without sends and receives the times are the same: a receive keeps no rank waiting, only the action that
    uses what it brings. The parts of what is cut share its cost evenly.

    Args:
        program: one that passes the checker.
        costs: of each stage.

    Raises:
        ValueError: ranks wait for one another for ever.
    """
    parts = Counter(action._replace(block=None) for action in program.words if action.block is not None)
    free: list[Number] = [0] * len(program.ranks)
    available: dict[Action, Number] = {}
    spans: list[list[Span]] = [[] for _ in program.ranks]
    for rank, action in run_order(program):
        arrivals: list[Number] = []
        if action.kind in COMPUTE or action.kind in RECEIVES:
            for need in needs(action, program):
                far = program.is_remote(need.stage, action.stage)
                arrivals.append(available[need] + costs[need.stage].transfer if far else available[need])
        if action.kind in RECEIVES:
            available[action] = max(arrivals)
            continue
        start = max(free[rank], *arrivals) if arrivals else free[rank]
        free[rank] = available[action] = start + _duration(action, costs[action.stage], parts)
        if action.kind in COMPUTE:
            spans[rank].append(Span(rank, action, start, free[rank]))
    if len(available) != len(program.words):
        raise ValueError("the program comes to no end: its ranks wait for one another")
    return Timetable(
        spans=tuple(span for of_rank in spans for span in of_rank),
        num_ranks=len(program.ranks),
        peak=tuple(
            peak_kept(actions, lambda stage, _: Keeps(costs[stage].kept, costs[stage].kept_for_weight))
            for actions in program.ranks
        ),
    )


def _duration(action: Action, cost: StageCost, parts: Counter[Action]) -> Number:
    whole = cost.of(action.kind)
    shared_by = 1 if action.block is None else parts[action._replace(block=None)]
    return whole if shared_by == 1 else whole * Fraction(1, shared_by)


class Keeps(NamedTuple):
    """What one micro-batch keeps on one stage.

    Args:
        for_backward: from the forward until ``B`` or ``I``.
        for_weight: from ``I`` until ``W``.
        leaving: what else is there when the forward is done, and leaves beside the next forward that leaves something;
            ``None`` where a stage leaves what is leaving alone.
    """

    for_backward: Number
    for_weight: Number
    leaving: Number | None = None


def peak_kept(actions: Sequence[Action], kept: Callable[[int, int], Keeps]) -> Number:
    """Return the most that a rank's stages keep at once between two of its actions.

    Args:
        actions: the rank's list.
        kept: of a stage and a micro-batch.
    """
    now: Number = 0
    peak: Number = 0
    leaving: Number = 0
    left: tuple[int, int] | None = None
    for stage, kind, microbatch, block in actions:
        if kind not in COMPUTE or block:
            continue
        assert microbatch is not None
        keeps = kept(stage, microbatch)
        if kind is Kind.FORWARD:
            now += keeps.for_backward
            if keeps.leaving is not None:
                leaving, left = keeps.leaving, (stage, microbatch)
        else:
            now -= keeps.for_weight if kind is Kind.BACKWARD_WEIGHT else keeps.for_backward
            now += keeps.for_weight if kind is Kind.BACKWARD_INPUT else 0
            if left == (stage, microbatch):  # called back before it had left, and read
                leaving, left = 0, None
        peak = max(peak, now + leaving)
    return peak
