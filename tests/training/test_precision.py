"""Oracle: the same run in float32; 16-bit runs stay within the rounding of their dtype."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.step import StepReport, train_step
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, LLAMA, NEOX, run_file, windows_of

STEPS = 50


def losses(context: RankContext, config: RunConfig) -> list[float]:
    state = build_state(config, Mesh.build(config.layout))
    state.model.train()
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    return [train_step(state, feed.training_step(step)).loss for step in range(config.train.steps)]


def config_of(model: str, precision: str, **sections: Any) -> RunConfig:
    return run_file(
        model, train={"precision": precision, "micro_batch_size": 6, "steps": STEPS}, optimizer={"lr": 2e-3}, **sections
    )


@pytest.mark.parametrize(
    ("model", "precision", "sections"),
    [
        (GPT2, "bf16", {}),
        (LLAMA, "fp16", {}),
        (NEOX, "bf16", {"layout": {"dp": 2, "tp": 2}, "zero": {"stage": 3}, "tensor": {"sequence_parallel": True}}),
        (GPT2, "fp16", {"layout": {"dp": 2, "pp": 2}, "zero": {"stage": 2}, "pipeline": {"schedule": "zb-h1"}}),
    ],
)
def test_50_steps_stay_within_the_rounding_of_the_dtype(
    ranks: RankPool, model: str, precision: str, sections: dict[str, Any]
) -> None:
    (wide,) = ranks.run(1, losses, config_of(model, "fp32"))
    config = config_of(model, precision, **sections)
    eps = torch.finfo({"bf16": torch.bfloat16, "fp16": torch.float16}[precision]).eps
    for narrow in ranks.run(config.layout.world_size, losses, config):
        assert max(abs(a / b - 1) for a, b in zip(narrow, wide, strict=True)) < 2 * eps
    assert wide[0] - wide[-1] > 40 * torch.finfo(torch.float16).eps  # it learns, by more than the rounding


def everything(state: TrainingState) -> list[Tensor]:
    kept = [tensor for held in state.optimizer.state for tensor in held.values()]
    return [tensor.clone() for bucket in state.buckets for tensor in (bucket.shard, bucket.owned_values)] + [
        tensor.clone() for tensor in kept
    ]


def overflowing(context: RankContext, config: RunConfig, sick_rank: int) -> tuple[StepReport, bool, list[float]]:
    """Make one rank's gradient infinite in the second of three steps: its report, what stayed, and the scales."""
    state = build_state(config, Mesh.build(config.layout))
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    train_step(state, feed.training_step(0))
    scales, before = [state.loss_scale.value], everything(state)
    parameter = state.buckets[1].slots[0].parameter
    hook = parameter.register_hook(lambda gradient: gradient * (math.inf if context.rank == sick_rank else 1))
    report = train_step(state, feed.training_step(1))
    hook.remove()
    stayed = all(torch.equal(new, old) for new, old in zip(everything(state), before, strict=True))
    scales.append(state.loss_scale.value)
    assert state.optimizer.updates == 1
    assert train_step(state, feed.training_step(2)).updated
    return report, stayed, scales


@pytest.mark.parametrize(("stage", "sick_rank"), [(0, 1), (3, 0)])
def test_at_an_overflow_every_rank_skips_and_the_scale_halves(ranks: RankPool, stage: int, sick_rank: int) -> None:
    config = config_of(NEOX, "fp16", layout={"dp": 2}, zero={"stage": stage})
    for report, stayed, scales in ranks.run(2, overflowing, config, sick_rank):
        assert not report.updated
        assert report.step == 2
        assert stayed
        assert scales == [65536, 32768]
