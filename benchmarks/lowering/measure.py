"""One measurement: a schedule made, lowered and checked, timed part by part."""

import resource
import time
from dataclasses import dataclass
from itertools import pairwise

from megalm.parallel.pipeline.check import check
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.schedules import interleaved


@dataclass(frozen=True)
class Case:
    """An interleaved program, and what it may cost.

    Args:
        name: in tables.
        num_ranks: of the pipeline.
        stages_per_rank: spans of layers on each.
        num_microbatches: of one step.
        blocks_per_stage: each of which is reduced by itself.
        most_seconds: to make, lower and check it.
        most_mib: peak memory of the process.
    """

    name: str
    num_ranks: int
    stages_per_rank: int
    num_microbatches: int
    blocks_per_stage: int
    most_seconds: float
    most_mib: float


CASES = (
    Case("16 ranks", 16, 4, 128, 6, most_seconds=5, most_mib=2048),
    Case("64 ranks", 64, 2, 512, 6, most_seconds=60, most_mib=2048),
)


@dataclass(frozen=True)
class Measurement:
    """What one process found.

    Args:
        num_actions: of the lowered program, all ranks together.
        schedule: seconds to make the program.
        reductions: seconds to add the reductions.
        communication: seconds to add sends and receives.
        check: seconds to check the result.
        seconds: all of these.
        peak_mib: the most memory that the process has held, imports included.
    """

    num_actions: int
    schedule: float
    reductions: float
    communication: float
    check: float
    seconds: float
    peak_mib: float


def measure(case: Case) -> Measurement:
    """Make, lower and check the program of a case."""
    moments = [time.perf_counter()]
    program = interleaved(case.num_ranks, case.num_microbatches, case.stages_per_rank)
    moments.append(time.perf_counter())
    program = with_reductions(program, [case.blocks_per_stage] * program.num_stages)
    moments.append(time.perf_counter())
    program = with_communication(program)
    moments.append(time.perf_counter())
    check(program)
    moments.append(time.perf_counter())
    schedule, reductions, communication, judged = (after - before for before, after in pairwise(moments))
    return Measurement(
        sum(map(len, program.ranks)),
        schedule,
        reductions,
        communication,
        judged,
        seconds=moments[-1] - moments[0],
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
