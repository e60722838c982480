"""Oracle: the bytes of all storages that are alive, those of the host apart, after each block's forward."""

from itertools import accumulate
from typing import Any

import pytest

from megalm.mesh import Mesh
from megalm.models.activations import Kept, MicroBatchSize, kept_by_block
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.pipeline.entry import Gradients
from megalm.parallel.pipeline.flow import Flow
from megalm.parallel.pipeline.stage import Stage
from megalm.recompute import RecomputeConfig
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from tests.models.live_storages import LiveStorages
from tests.models.test_activations import WITHOUT_DROPOUT, config_of, feed_of
from tests.models.test_recomputed_activations import MODES, present, settled
from tests.pretend_host import pretended
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, LLAMA

SMALLEST = 13 * 3 * 4 * 8
"""Bytes: norms' statistics stay, the rows move."""


def block_by_block(context: RankContext, config: RunConfig, smallest: int) -> list[tuple[int, int]]:
    """Return how many bytes are alive on the device and on the host after each block's forward.

    A block's output is counted with the block that reads it, if that keeps it.
    """
    mesh = Mesh.build(config.layout, timeout_s=30)
    with pretended(smallest) as host:
        state = build_state(config, mesh)
    state.model.train()
    batch = feed_of(config, mesh).training_step(0)[0]
    (whole,) = state.engine.stages.values()
    stages = [Stage([block], whole._weight_half, whole._recomputed, whole._offload) for block in whole.blocks]
    goals = expected(config, mesh.tp.rank, smallest)
    flow: Flow | None = None
    gradients: Gradients | None = None
    found = []
    with LiveStorages() as live:
        for stage, goal in zip(stages, goals, strict=True):
            flow = stage.forward(0, flow, batch)
            alive = settled(live, mesh, sum(goal), *present(flow))
            found.append((alive - host.num_bytes, host.num_bytes))
        for stage in reversed(stages):
            gradients = stage.backward(0, gradients)
        del flow, gradients
        assert settled(live, mesh, 0) == 0
    return found


def kept_of(config: RunConfig, tp_rank: int, smallest: int) -> list[Kept]:
    size = MicroBatchSize(3, 13, 4, config.layout.tp, tp_rank, config.tensor.sequence_parallel)
    return kept_by_block(DecoderShape.of(config.model), size, config.recompute, smallest)


def expected(config: RunConfig, tp_rank: int, smallest: int) -> list[tuple[int, int]]:
    """On the device there is, beside what stays of each block, the layer that left last."""
    kept = kept_of(config, tp_rank, smallest)
    last = [kept[min(number, len(kept) - 2)].on_host for number in range(len(kept))]
    stays = accumulate(block.for_backward for block in kept)
    return [
        (here + leaving, there)
        for here, leaving, there in zip(stays, last, accumulate(block.on_host for block in kept), strict=True)
    ]


@pytest.mark.parametrize("recompute", MODES, ids=str)
@pytest.mark.parametrize("model", WITHOUT_DROPOUT)
def test_each_memory_has_what_the_closed_form_says(model: str, recompute: dict[str, Any]) -> None:
    config = config_of(model, recompute={**recompute, "offload": "cpu"})
    assert block_by_block(RankContext(0, 1), config, SMALLEST) == expected(config, 0, SMALLEST)


@pytest.mark.parametrize("model", [GPT2, LLAMA])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_tensor_parallel_ranks_move_their_share(ranks: RankPool, model: str, sequence_parallel: bool) -> None:
    config = config_of(
        model, recompute={"offload": "cpu"}, layout={"tp": 2}, tensor={"sequence_parallel": sequence_parallel}
    )
    for rank, found in enumerate(ranks.run(2, block_by_block, config, SMALLEST)):
        assert found == expected(config, rank, SMALLEST)


@pytest.mark.parametrize("recompute", MODES, ids=str)
def test_what_stays_and_what_moves_is_what_is_kept_without_offload(recompute: dict[str, Any]) -> None:
    """Oracle: the closed form without offload, at any limit."""
    shape, size = DecoderShape.of(config_of(GPT2).model), MicroBatchSize(3, 13)
    here = kept_by_block(shape, size, RecomputeConfig(**recompute))
    assert all(block.on_host == 0 for block in here)
    for smallest in (0, SMALLEST, 10**9):
        there = kept_by_block(shape, size, RecomputeConfig(**recompute, offload="cpu"), smallest)
        assert [block.for_backward + block.on_host for block in there] == [block.for_backward for block in here]
        assert any(block.on_host for block in there) == (smallest < 10**9)
        assert there[0].on_host == there[-1].on_host == 0
