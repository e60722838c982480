"""The side under test: megalm as ``megalm train`` builds it, fed from memory instead of from a corpus."""

import os
from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.throughput.measure import Step
from benchmarks.throughput.workload import Workload
from megalm.data.loader import Rows
from megalm.launcher import ranks
from megalm.launcher.placement import Placement, from_environment
from megalm.mesh import Mesh
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.step import train_step


class FixedTokens:
    """The workload's tokens as a source of rows.

    Args:
        workload: says the tokens.
    """

    def __init__(self, workload: Workload) -> None:
        """See the class."""
        self._workload = workload

    def rows(self, step: int, first: int, count: int) -> Rows:
        """Return samples ``first`` to ``first + count`` of the global batch of a step."""
        tokens = self._workload.rows(step, first, count).numpy()
        start = step * self._workload.global_batch_size + first
        return Rows(tokens, np.zeros(tokens.shape, dtype=np.int32), np.arange(start, start + count))


def run_config(
    workload: Workload, dp: int, tp: int, pp: int, micro_batch_size: int, zero: Mapping[str, Any] = MappingProxyType({})
) -> RunConfig:
    """Return the run that does the workload: AdamW with the numbers of PyTorch's, a pipeline by 1F1B."""
    return RunConfig.model_validate(
        {
            "run": {"seed": workload.seed, "device": "cpu"},
            "model": {
                "family": "gpt2",
                "num_hidden_layers": workload.num_layers,
                "hidden_size": workload.hidden_size,
                "num_attention_heads": workload.num_heads,
                "vocab_size": workload.vocab_size,
                "max_position_embeddings": workload.seq_length,
            },
            "layout": {"dp": dp, "tp": tp, "pp": pp},
            "pipeline": {"schedule": "1f1b"},
            "zero": dict(zero),
            "optimizer": {
                "lr": workload.learning_rate,
                "betas": [0.9, 0.999],
                "weight_decay": 0.01,
                "clip_grad_norm": workload.clip_grad_norm,
            },
            "lr_schedule": {"name": "constant", "warmup_steps": 0},
            "data": {"train": [{"path": "none"}]},
            "train": {
                "steps": workload.steps,
                "global_batch_size": workload.global_batch_size,
                "micro_batch_size": micro_batch_size,
                "seq_length": workload.seq_length,
            },
        }
    )


def build(workload: Workload, dp: int, tp: int, pp: int, micro_batch_size: int) -> tuple[TrainingState, Step]:
    """Join the other ranks; return this rank's state and its training step."""
    config = run_config(workload, dp, tp, pp, micro_batch_size)
    ranks.start(from_environment(os.environ) or Placement.alone(), "cpu", config.run.timeout)
    mesh = Mesh.build(config.layout)
    state = build_state(config, mesh)
    state.model.train()
    feed = Feed(config, mesh, FixedTokens(workload), objective_of(config))

    def step(index: int) -> float:
        return train_step(state, feed.training_step(index)).loss

    return state, step


def build_step(workload: Workload, dp: int, tp: int, pp: int, micro_batch_size: int) -> tuple[Step, int]:
    """Join the other ranks; return the training step of this rank and the number of the whole model's parameters."""
    state, step = build(workload, dp, tp, pp, micro_batch_size)
    return step, sum(prod(spec_of(parameter).shape) for parameter in state.model.parameters())
