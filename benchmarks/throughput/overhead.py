"""What megalm's pipeline engine costs beside the work of its stages: ``python -m benchmarks.throughput.overhead``.

Two fresh ranks do the workload of the pipeline claims. Each sums, over the timed steps, the processor seconds of its
main thread inside ``Stage``'s forwards and backwards, and those of the whole process inside ``Engine.run``. The
difference is what the engine adds: the order of the actions, sends, receives, sums of gradients, and all that gloo's
threads do meanwhile. A rank that waits burns nothing. With one thread a rank, the main thread does all stage work.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from benchmarks.throughput.claims import CLAIMS, Claim
from benchmarks.throughput.measure import leave
from benchmarks.throughput.pairs import last_lines
from benchmarks.throughput.workload import Workload

MOST = 0.03
"""The engine's processor seconds over those of the stages, on the rank where they are most."""
P = ParamSpec("P")
R = TypeVar("R")
STAGE_WORK = ("forward", "backward", "backward_input", "backward_weight")


@dataclass(frozen=True)
class Overhead:
    """Processor seconds of one rank over the timed steps.

    Args:
        engine_s: of the whole process inside ``Engine.run``.
        stage_s: of the main thread inside the stages.
    """

    engine_s: float
    stage_s: float

    @property
    def share(self) -> float:
        """What is not stage work, over the stage work."""
        return (self.engine_s - self.stage_s) / self.stage_s


class Clock:
    """Sums the seconds inside the functions it wraps; one that calls another counts once.

    Args:
        now: the clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """See the class."""
        self.seconds = 0.0
        self._now = now
        self._depth = 0

    def wrap(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function, clocked."""

        def clocked(*args: P.args, **kwargs: P.kwargs) -> R:
            started = self._now()
            self._depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += self._now() - started

        return clocked


def measure(claim: Claim, workload: Workload) -> list[Overhead]:
    """Return what each rank of megalm's side of a pipeline claim spends.

    Raises:
        RuntimeError: a rank failed.
        ValueError: the ranks of the claim have several threads.
    """
    if claim.threads != 1:
        raise ValueError(f"{claim.name} has {claim.threads} threads a rank: the main thread does not do all stage work")
    command = ["benchmarks.throughput.overhead", "--rank-of", claim.name, "--workload", json.dumps(asdict(workload))]
    return [Overhead(**json.loads(line)) for line in last_lines(command, claim, "megalm")]


def verdict(overheads: Sequence[Overhead]) -> dict[str, Any]:
    """Return them as one more bound of the claim: the rank with the highest share is judged."""
    worst = max(overhead.share for overhead in overheads)
    bound = {"quantity": "engine_over_stage_cpu", "ratio": MOST, "at_most": True}
    return bound | {"measured": worst, "holds": worst <= MOST, "ranks": [asdict(overhead) for overhead in overheads]}


def _read_rank(claim: Claim, workload: Workload) -> Overhead:
    from benchmarks.throughput import megalm_side

    state, step = megalm_side.build(workload, claim.dp, claim.tp, claim.pp, claim.micro_batch(workload))
    torch.set_num_threads(claim.threads)
    engine, stages = Clock(time.process_time), Clock(time.thread_time)
    for index in range(workload.steps):
        if index == workload.warmup_steps:
            state.engine.run = engine.wrap(state.engine.run)  # type: ignore[method-assign]
            for stage in state.engine.stages.values():
                for name in STAGE_WORK:
                    setattr(stage, name, stages.wrap(getattr(stage, name)))
        step(index)
    dist.destroy_process_group()
    return Overhead(engine.seconds, stages.seconds)


def main() -> int:
    """Measure the first pipeline claim's ranks, or be one of them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput.overhead")
    pipelines = {claim.name: claim for claim in CLAIMS if claim.pp > 1}
    parser.add_argument("--workload", type=json.loads, default={}, help="fields of Workload as JSON, for a trial")
    parser.add_argument("--rank-of", choices=pipelines, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    workload = Workload(**arguments.workload)
    if arguments.rank_of is not None:
        leave(asdict(_read_rank(pipelines[arguments.rank_of], workload)))
    overheads = measure(next(iter(pipelines.values())), workload)
    for rank, overhead in enumerate(overheads):
        print(f"rank {rank}: {overhead.engine_s:.3f} CPU-s, stages {overhead.stage_s:.3f}, share {overhead.share:.2%}")
    return 0 if verdict(overheads)["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
