"""One side of a comparison: an engine with megalm's model, fed from memory, or with a plain one."""

import os
from math import prod

import torch.distributed as dist

from benchmarks.throughput.measure import Step
from benchmarks.throughput.megalm_side import FixedTokens, run_config
from benchmarks.throughput.workload import Workload
from benchmarks.zero.claims import ENGINES
from megalm.launcher import ranks
from megalm.launcher.placement import Placement, from_environment
from megalm.mesh import Mesh
from megalm.parameters import spec_of
from megalm.training.build import build
from megalm.training.feed import Feed, objective_of
from megalm.training.step import train_step


def build_step(side: str, workload: Workload, dp: int, micro_batch_size: int) -> tuple[Step, int]:
    """Join the other ranks; return this rank's training step and the number of the model's parameters."""
    engine = ENGINES[side]
    if not engine.in_megalm:
        from benchmarks.zero import peers

        dist.init_process_group("gloo")
        return peers.build_step(engine, workload)
    config = run_config(workload, dp, 1, 1, micro_batch_size, {"backend": engine.name, "stage": engine.stage})
    ranks.start(
        from_environment(os.environ) or Placement.alone(), "cpu", config.run.timeout, keep_large=config.zero_stage < 2
    )
    mesh = Mesh.build(config.layout)
    state = build(config, mesh)
    num_parameters = sum(prod(spec_of(parameter).shape) for parameter in state.model.parameters())
    state.model.train()
    feed = Feed(config, mesh, FixedTokens(workload), objective_of(config))

    def step(index: int) -> float:
        return train_step(state, feed.training_step(index)).loss

    return step, num_parameters
