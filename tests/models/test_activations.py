"""Oracle: what autograd saves and what put-off products hold, counted storage by storage while a model runs."""

from typing import Any

import pytest

from megalm.data.loader import TrainingData
from megalm.mesh import Mesh
from megalm.models.activations import MicroBatchSize, kept_by_block
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.pipeline.clock import StageCost, time_program
from megalm.parallel.pipeline.stage import Stage
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.programs import Programs
from tests.parallel.pipeline.live_bytes import CountedHalf, LiveBytes
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, GPT2_UNTIED, LLAMA, LLAMA_TIED, NEOX, NEOX_TIED, run_file

WITHOUT_DROPOUT: dict[str, dict[str, Any]] = {
    GPT2: {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0},
    GPT2_UNTIED: {},
    NEOX: {"hidden_dropout": 0.0},
    NEOX_TIED: {},
    LLAMA: {"attention_dropout": 0.0},
    LLAMA_TIED: {},
}


def config_of(model: str, /, **sections: Any) -> RunConfig:
    own = {**WITHOUT_DROPOUT[model], **sections.pop("model", {})}
    train = {"precision": "fp32", "micro_batch_size": 3, **sections.pop("train", {})}
    return run_file(model, model=own, train=train, **sections)


def feed_of(config: RunConfig, mesh: Mesh) -> Feed:
    train = config.train
    source = TrainingData(
        config.data,
        seq_length=train.seq_length,
        global_batch_size=train.global_batch_size,
        seed=config.run.seed,
        vocab_size=config.model.vocab_size,
    )
    return Feed(config, mesh, source, objective_of(config))


def counted(state: TrainingState) -> LiveBytes:
    """Let the stages count what they keep."""
    live = LiveBytes(iter([*(bucket.values.tensor for bucket in state.buckets), *state.held.buffers()]))
    half = CountedHalf(live)
    for parameter in state.held.parameters():
        parameter.weight_half = half  # type: ignore[attr-defined]
    for stage in state.engine.stages.values():
        stage._weight_half = half
    return live


def block_by_block(context: RankContext, config: RunConfig) -> list[tuple[int, int]]:
    """Return for each block what it keeps after its forward and after its input half."""
    mesh = Mesh.build(config.layout, timeout_s=30)
    state = build_state(config, mesh)
    state.model.train()
    live = counted(state)
    batch = feed_of(config, mesh).training_step(0)[0]
    (whole,) = state.engine.stages.values()
    stages = [Stage([block], whole._weight_half) for block in whole.blocks]
    after_forward, flow = [], None
    with live.counting():
        for stage in stages:
            before = live.now
            flow = stage.forward(0, flow, batch)
            after_forward.append(live.now - before)
        gradients, after_input = None, []
        for stage in reversed(stages):
            gradients = stage.backward_input(0, gradients)
        for stage in stages:
            before = live.now
            stage.backward_weight(0)
            after_input.append(before - live.now)
    assert live.now == 0
    return list(zip(after_forward, after_input, strict=True))


@pytest.mark.parametrize("model", WITHOUT_DROPOUT)
def test_each_block_keeps_what_the_closed_form_says(model: str) -> None:
    config = config_of(model)
    kept = kept_by_block(DecoderShape.of(config.model), MicroBatchSize(3, 13))
    found = block_by_block(RankContext(0, 1), config)
    assert [for_backward for for_backward, _ in found] == [block.for_backward for block in kept]
    assert [for_weight for _, for_weight in found] == [block.for_weight for block in kept]


@pytest.mark.parametrize("model", [GPT2, LLAMA])
@pytest.mark.parametrize(
    "pattern",
    [
        {"pattern": "sliding_window", "window": 4, "num_dense_layers": 1},
        {"pattern": "dilated", "window": 2, "dilation": 3},
        {"pattern": "block_sparse", "block_size": 5, "num_local_blocks": 1, "num_global_blocks": 1},
    ],
    ids=lambda pattern: pattern["pattern"],
)
def test_so_does_each_block_of_sparse_attention(model: str, pattern: dict[str, Any]) -> None:
    config = config_of(model, model={"attention": pattern})
    kept = kept_by_block(DecoderShape.of(config.model), MicroBatchSize(3, 13))
    found = block_by_block(RankContext(0, 1), config)
    assert found == [(block.for_backward, block.for_weight) for block in kept]


@pytest.mark.parametrize("model", WITHOUT_DROPOUT)
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_tensor_parallel_ranks_keep_their_share(ranks: RankPool, model: str, sequence_parallel: bool) -> None:
    config = config_of(model, layout={"tp": 2}, tensor={"sequence_parallel": sequence_parallel})
    for rank, found in enumerate(ranks.run(2, block_by_block, config)):
        kept = kept_by_block(DecoderShape.of(config.model), MicroBatchSize(3, 13, 4, 2, rank, sequence_parallel))
        assert found == [(block.for_backward, block.for_weight) for block in kept]


def peak_of_rank(context: RankContext, config: RunConfig) -> int:
    mesh = Mesh.build(config.layout, timeout_s=30)
    state = build_state(config, mesh)
    state.model.train()
    live = counted(state)
    batches = feed_of(config, mesh).training_step(0)
    with live.counting():
        state.engine.run(state.programs.training(len(batches)), batches)
    assert live.now == 0
    return live.peak


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1"])
@pytest.mark.parametrize("model", [GPT2, LLAMA])
def test_the_clock_predicts_each_ranks_peak(ranks: RankPool, model: str, schedule: str) -> None:
    """Four stages of two blocks; the largest count of bytes while a step runs is within 2% of the clock's."""
    config = config_of(
        model,
        model={"num_hidden_layers": 6},
        layout={"pp": 4},
        pipeline={"schedule": schedule, "blocks_per_stage": [2, 2, 2, 2]},
        train={"global_batch_size": 24, "micro_batch_size": 3, "seq_length": 16},
    )
    kept = kept_by_block(DecoderShape.of(config.model), MicroBatchSize(3, 16))
    costs = [
        StageCost(
            *(1, 1, 1),
            kept=sum(block.for_backward for block in kept[first : first + 2]),
            kept_for_weight=sum(block.for_weight for block in kept[first : first + 2]),
        )
        for first in (0, 2, 4, 6)
    ]
    programs = Programs(config.pipeline, [0, 1, 2, 3], 4, [2, 2, 2, 2])
    predicted = time_program(programs.training(8), costs).peak
    measured = ranks.run(4, peak_of_rank, config)
    print(schedule, measured, [float(peak) for peak in predicted])
    for rank in range(4):
        assert measured[rank] == pytest.approx(float(predicted[rank]), rel=0.02), f"rank {rank}"
