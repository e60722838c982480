"""A traced run, read again: when one pipeline's ranks computed what, beside what the clock predicts. No torch."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from megalm.errors import UserError
from megalm.parallel.pipeline.action import COMPUTE, Action, Kind
from megalm.parallel.pipeline.clock import Span, StageCost, Timetable, time_program
from megalm.parallel.pipeline.program import Program

WARM_UP, LAST = 2, 50
"""Steps: the first ones of a run are left out if there are others, and no more than the last ones are read."""

Recorded = Sequence[tuple[Action, float, float]]
"""A rank's actions of one step, each with its start and end in seconds."""


@dataclass(frozen=True)
class Timeline:
    """One step of a pipeline as it was, and as the clock predicts it from what the stages cost.

    Args:
        step: the step whose length is the median of those recorded.
        measured: its timetable.
        predicted: of the program that was executed, with each stage's median costs and without transfers.
        steps: how many were read.
    """

    step: int
    measured: Timetable
    predicted: Timetable
    steps: int


def read_timeline(files: Sequence[Path]) -> Timeline | None:
    """Return the timeline of a pipeline, or ``None`` where no step was recorded by all of its ranks.

    Args:
        files: the traces of its ranks, in the order of the pipeline.

    Raises:
        UserError: a file is not a trace.
    """
    by_rank = [read_steps(file) for file in files]
    common = sorted(set.intersection(*(set(steps) for steps in by_rank)))[-LAST:]
    common = common[WARM_UP:] or common
    if not common:
        return None
    lengths = {step: _length([steps[step] for steps in by_rank]) for step in common}
    chosen = sorted(common, key=lengths.__getitem__)[len(common) // 2]
    step = [steps[chosen] for steps in by_rank]
    program = Program.of([action for action, _, _ in actions] for actions in step)
    costs = _costs([steps[each] for steps in by_rank for each in common], program.num_stages)
    return Timeline(chosen, _measured(step), time_program(program, costs), len(common))


def read_steps(file: Path) -> dict[int, Recorded]:
    """Return a rank's actions by step; a last line that is still being written is left out.

    Raises:
        UserError: the file cannot be read, or is not a trace.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
        rows = [json.loads(line) for line in lines]
        return {row["step"]: [(Action.parse(word), start, end) for word, start, end in row["actions"]] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as a trace ({type(error).__name__}: {error}); remove it.") from error


def chrome_trace(traces: Mapping[int, Path]) -> str:
    """Return the last steps of all ranks in the form that chrome://tracing and Perfetto open.

    Args:
        traces: the files by rank.
    """
    events: list[dict[str, object]] = []
    for rank, file in traces.items():
        steps = read_steps(file)
        for step in sorted(steps)[-LAST:]:
            events += [
                {
                    "name": str(action),
                    "cat": action.kind.name.lower(),
                    "ph": "X",
                    "ts": start * 1e6,
                    "dur": (end - start) * 1e6,
                    "pid": 0,
                    "tid": rank,
                    "args": {"step": step, "stage": action.stage},
                }
                for action, start, end in steps[step]
            ]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def _computing(actions: Recorded) -> Recorded:
    return [entry for entry in actions if entry[0].kind in COMPUTE]


def _length(step: Sequence[Recorded]) -> float:
    times = [(start, end) for actions in step for _, start, end in _computing(actions)]
    return max(end for _, end in times) - min(start for start, _ in times) if times else 0.0


def _measured(step: Sequence[Recorded]) -> Timetable:
    first = min((start for actions in step for _, start, _ in _computing(actions)), default=0.0)
    spans = tuple(
        Span(rank, action, start - first, end - first)
        for rank, actions in enumerate(step)
        for action, start, end in _computing(actions)
    )
    return Timetable(spans, len(step), (0,) * len(step))


def _costs(steps: Sequence[Recorded], num_stages: int) -> list[StageCost]:
    """Return each stage's median seconds of a forward, a backward or its halves; the parts of a cut one are added."""
    seen: dict[tuple[int, Kind], list[float]] = defaultdict(list)
    for actions in steps:
        whole: dict[Action, float] = defaultdict(float)
        for action, start, end in _computing(actions):
            whole[action._replace(block=None)] += end - start
        for action, seconds in whole.items():
            seen[action.stage, action.kind].append(seconds)

    def of(stage: int, kind: Kind) -> float:
        return median(seen.get((stage, kind), [0.0]))

    return [
        StageCost(
            of(stage, Kind.FORWARD),
            of(stage, Kind.BACKWARD) + of(stage, Kind.BACKWARD_INPUT),
            of(stage, Kind.BACKWARD_WEIGHT),
        )
        for stage in range(num_stages)
    ]
