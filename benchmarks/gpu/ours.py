"""megalm on one GPU, as ``megalm train`` builds it, fed from memory."""

import torch

from benchmarks.gpu.sides import Side
from benchmarks.throughput.measure import Step
from benchmarks.throughput.megalm_side import FixedTokens, run_config
from benchmarks.throughput.workload import Workload
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.step import train_step


def build_step(side: Side, workload: Workload) -> Step:
    """Return the training step."""
    settings = run_config(workload, 1, 1, 1, workload.global_batch_size).model_dump(mode="json", by_alias=True)
    settings["run"]["device"] = "cuda"
    settings["train"]["precision"] = side.precision
    for section, values in side.settings.items():
        settings[section] |= values
    config = RunConfig.model_validate(settings)
    state = build_state(config, Mesh.build(config.layout, torch.device("cuda")))
    state.model.train()
    feed = Feed(config, state.mesh, FixedTokens(workload), objective_of(config))

    def step(index: int) -> float:
        return train_step(state, feed.training_step(index)).loss

    return step
