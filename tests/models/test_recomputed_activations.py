"""Oracle: the bytes of all storages that are alive, whoever holds them, after each block's forward and input half."""

import time
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from megalm import collectives
from megalm.mesh import Mesh
from megalm.models.activations import MicroBatchSize, kept_by_block
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.pipeline.entry import Gradients
from megalm.parallel.pipeline.flow import Flow, named
from megalm.parallel.pipeline.stage import Stage
from megalm.recompute import RecomputeConfig
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.precision import DTYPES
from tests.models.live_storages import LiveStorages
from tests.models.test_activations import WITHOUT_DROPOUT, config_of, feed_of
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, LLAMA, NEOX

ALL = ["attention_core", "activation", "norm"]
MODES: list[dict[str, Any]] = [
    {"mode": "none"},
    {"mode": "selective"},
    {"mode": "selective", "operations": ["activation"]},
    {"mode": "selective", "operations": ["norm"]},
    {"mode": "selective", "operations": ALL, "every": 2},
    {"mode": "full"},
    {"mode": "full", "every": 2},
]


def block_by_block(context: RankContext, config: RunConfig) -> tuple[list[int], list[int]]:
    """Return how many bytes are alive after each block's forward, and after all input halves and each weight half.

    A block's output is counted with the block that reads it, if that keeps it.
    """
    mesh = Mesh.build(config.layout, timeout_s=30)
    state = build_state(config, mesh)
    state.model.train()
    batch = feed_of(config, mesh).training_step(0)[0]
    (whole,) = state.engine.stages.values()
    stages = [Stage([block], whole._weight_half, whole._recomputed) for block in whole.blocks]
    forwards, halves = expected(config, mesh.tp.rank)
    flow: Flow | None = None
    gradients: Gradients | None = None
    with LiveStorages() as live:
        alive = []
        for stage, goal in zip(stages, forwards, strict=True):
            flow = stage.forward(0, flow, batch)
            alive.append(settled(live, mesh, goal, *present(flow)))
        for stage in reversed(stages):
            gradients = stage.backward_input(0, gradients)
        del flow
        held = [settled(live, mesh, halves[0])]
        for stage, goal in zip(stages, halves[1:], strict=True):
            stage.backward_weight(0)
            held.append(settled(live, mesh, goal))
    return alive, held


def expected(config: RunConfig, tp_rank: int) -> tuple[list[int], list[int]]:
    tp_size, cut = config.layout.tp, config.tensor.sequence_parallel
    element_size = torch.finfo(DTYPES[config.train.precision]).bits // 8
    size = MicroBatchSize(3, 13, element_size, tp_size, tp_rank, cut)
    kept = kept_by_block(DecoderShape.of(config.model), size, config.recompute)
    forwards = list(accumulate(block.for_backward for block in kept))
    return forwards, [sum(block.for_weight for block in kept[number:]) for number in range(len(kept) + 1)]


def settled(live: LiveStorages, mesh: Mesh, goal: int, *others: Tensor) -> int:
    """Return the bytes alive; gloo lets go of what it sent last when it sends again, a moment later."""
    for _ in range(100):
        number = collectives.all_reduce(torch.zeros(()), mesh.tp)
        alive = live.bytes_beside(number, *others)
        if collectives.all_reduce(torch.tensor(float(alive != goal)), mesh.tp).item() == 0:
            break
        time.sleep(0.01)
    return alive


def present(flow: Flow | None) -> list[Tensor]:
    return [] if flow is None else list(named(flow).values())


@pytest.mark.parametrize("recompute", MODES, ids=str)
@pytest.mark.parametrize("model", WITHOUT_DROPOUT)
def test_each_block_keeps_what_the_closed_form_says(model: str, recompute: dict[str, Any]) -> None:
    config = config_of(model, recompute=recompute)
    assert block_by_block(RankContext(0, 1), config) == expected(config, 0)


@pytest.mark.parametrize("recompute", [MODES[1], MODES[4], MODES[6]], ids=str)
@pytest.mark.parametrize("model", [GPT2, NEOX, LLAMA])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_tensor_parallel_ranks_keep_their_share(
    ranks: RankPool, model: str, recompute: dict[str, Any], sequence_parallel: bool
) -> None:
    config = config_of(model, recompute=recompute, layout={"tp": 2}, tensor={"sequence_parallel": sequence_parallel})
    for rank, found in enumerate(ranks.run(2, block_by_block, config)):
        assert found == expected(config, rank)


@pytest.mark.parametrize("recompute", [MODES[0], MODES[4], MODES[6]], ids=str)
@pytest.mark.parametrize("model", WITHOUT_DROPOUT)
def test_16_bit_activations_are_widened_where_a_cpu_does(model: str, recompute: dict[str, Any]) -> None:
    config = config_of(model, recompute=recompute, train={"precision": "bf16"})
    assert block_by_block(RankContext(0, 1), config) == expected(config, 0)


def test_modes_order_as_they_say() -> None:
    shape, size = DecoderShape.of(config_of(GPT2).model), MicroBatchSize(3, 13)

    def kept(**recompute: Any) -> int:
        return sum(block.for_backward for block in kept_by_block(shape, size, RecomputeConfig(**recompute)))

    some, most = kept(mode="selective"), kept(mode="selective", operations=ALL)
    assert kept(mode="full") < kept(mode="full", every=2) < kept()
    assert kept(mode="full") < most < some < kept()
