"""One rank of a measurement: ``python -m benchmarks.bubble.rank JOB_DIR``, started by the local launcher.

It executes the program a few times with the engine of megalm and writes the start and end of every action.
"""

import json
import os
import sys
from pathlib import Path

import torch

from benchmarks.bubble.cases import Case
from benchmarks.bubble.timed import TimedBlock
from megalm import collectives
from megalm.batch import MicroBatch
from megalm.launcher import ranks
from megalm.launcher.placement import from_environment
from megalm.layout import Layout
from megalm.mesh import Mesh
from megalm.parallel.pipeline.action import Action
from megalm.parallel.pipeline.engine import Engine
from megalm.parallel.pipeline.stage import Stage
from megalm.parallel.pipeline.transport import Transport
from megalm.weight_half import WeightHalf

TIMEOUT_S = 120


class NoParameters:
    """A data engine with nothing to do."""

    def gather(self, place: tuple[int, int]) -> None:
        """Do nothing."""

    def ready(self, place: tuple[int, int]) -> None:
        """Do nothing."""

    def release(self, place: tuple[int, int]) -> None:
        """Do nothing."""

    def reduce(self, place: tuple[int, int]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


def run(folder: Path) -> None:
    """Do the job that lies in ``folder``, as the rank that the environment says."""
    job = json.loads((folder / "job.json").read_text())
    case = Case(**job["case"])
    placement = from_environment(os.environ)
    assert placement is not None
    ranks.start(placement, "cpu", TIMEOUT_S)
    mesh = Mesh.build(Layout(pp=case.num_ranks), timeout_s=TIMEOUT_S)
    program, half = case.program(), WeightHalf()
    stages = {
        stage: Stage([TimedBlock(job["seconds"], half, is_last=stage + 1 == program.num_stages)], half)
        for stage in program.stages_of(mesh.pp.rank)
    }
    transport = Transport(mesh.pp, mesh.pp_upward, mesh.device)
    engine = Engine(mesh.pp.rank, stages, transport, NoParameters())
    actions: list[tuple[str, float, float]] = []

    def record(action: Action, start: float, end: float) -> None:
        actions.append((str(action), start, end))

    engine.record = record
    token = torch.zeros(1, 1, dtype=torch.int64)
    batches = [MicroBatch(token, token, token, token, 1.0)] * case.num_microbatches
    with (folder / f"rank-{mesh.rank}.jsonl").open("w") as file:
        for step in range(job["steps"]):
            collectives.barrier(mesh.world)
            engine.run(program, batches)
            file.write(json.dumps({"step": step, "actions": actions}) + "\n")
            actions.clear()
    ranks.stop()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
