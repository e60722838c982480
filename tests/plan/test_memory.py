"""Oracle: the storages of a run's live tensors, and the formulas of the ZeRO paper."""

from dataclasses import replace

import pytest

from megalm.mesh import Mesh
from megalm.models.counts import num_parameters
from megalm.models.decoder_shape import DecoderShape
from megalm.plan.data_exchange import Sharing
from megalm.plan.memory import ElementBytes, KeptBytes, buckets_of_rank, kept_bytes
from megalm.plan.quantized import RankPlace, state_sizes
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.held_bytes import held_bytes
from megalm.training.step import train_step
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, GPT2_UNTIED, LLAMA, NEOX, run_file, windows_of

FP32 = ElementBytes(value=4, total=4, num_moments=2)
PSI = 3 * 2**20


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("value", "of_all", "of_a_share"),
    [
        (4, (16, 8, 4, 0), (0, 8, 12, 16)),
        (2, (18, 6, 2, 0), (0, 12, 16, 18)),
    ],
)
def test_the_formulas_of_the_paper(n: int, value: int, of_all: tuple[int, ...], of_a_share: tuple[int, ...]) -> None:
    for stage in range(4):
        sharing = Sharing(n, stage, n if stage else 1)
        kept = kept_bytes(PSI, sharing, ElementBytes(value, 4, 2))
        assert kept.total == of_all[stage] * PSI + of_a_share[stage] * PSI // n


def held(context: RankContext, config: RunConfig, steps: int) -> tuple[KeptBytes, list[int]]:
    state = build_state(config, Mesh.build(config.layout))
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    for step in range(steps):
        train_step(state, feed.training_step(step))
    return held_bytes(state), [bucket.values.tensor.numel() for bucket in state.buckets]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("model", "layout"),
    [(GPT2, {}), (GPT2, {"dp": 2}), (NEOX, {"dp": 4}), (LLAMA, {"dp": 2, "tp": 2}), (GPT2_UNTIED, {"dp": 8})],
)
def test_what_a_rank_holds_is_the_closed_form(ranks: RankPool, model: str, layout: dict[str, int], stage: int) -> None:
    config = run_file(
        model,
        layout=layout,
        zero={"stage": stage},
        train={"precision": "fp32", "global_batch_size": 16, "micro_batch_size": 1},
    )
    shape = DecoderShape.of(config.model)
    sharing = Sharing(config.layout.dp, config.zero_stage, config.shard_size)
    sizes = buckets_of_rank(shape, config.layout.tp, config.shard_size, range(shape.num_layers + 2))
    for measured, built in ranks.run(config.layout.world_size, held, config, 1):
        assert built == sizes
        assert measured == kept_bytes(sum(sizes), sharing, FP32)
    padding = sum(sizes) - num_parameters(shape)
    assert 0 <= padding < 0.05 * sum(sizes) or config.layout.tp > 1


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp8"])
def test_16_bit_parameters_have_a_master_copy(ranks: RankPool, precision: str, stage: int) -> None:
    config = run_file(NEOX, layout={"dp": 2}, zero={"stage": stage}, train={"precision": precision})
    sizes = buckets_of_rank(DecoderShape.of(config.model), 1, config.shard_size, range(4))
    sharing = Sharing(2, config.zero_stage, config.shard_size)
    for measured, _ in ranks.run(2, held, config, 1):
        assert measured == kept_bytes(sum(sizes), sharing, ElementBytes(2, 4, 2))


@pytest.mark.parametrize(
    ("model", "layout", "stage", "precision"),
    [
        (GPT2, {}, 0, "fp32"),
        (GPT2, {"dp": 3}, 1, "fp32"),
        (GPT2, {"dp": 8}, 3, "fp32"),
        (LLAMA, {"dp": 2, "tp": 2}, 2, "fp32"),
        (NEOX, {"dp": 2, "tp": 3}, 1, "bf16"),
        (GPT2, {"dp": 2, "pp": 2}, 3, "fp64"),
    ],
)
def test_8_bit_state_is_the_closed_form(
    ranks: RankPool, model: str, layout: dict[str, int], stage: int, precision: str
) -> None:
    config = run_file(
        model,
        model={"intermediate_size": 600},
        layout=layout,
        tensor={"sequence_parallel": "tp" in layout},
        zero={"stage": stage},
        optimizer={"name": "adamw8bit"},
        train={"precision": precision, "global_batch_size": 24, "micro_batch_size": 2},
    )
    shape, sizes = DecoderShape.of(config.model), config.layout
    value, total = {"bf16": (2, 4), "fp32": (4, 4), "fp64": (8, 8)}[precision]
    found = ranks.run(sizes.world_size, held, config, 1)
    half = len(found[0][1]) - 1 if sizes.pp == 2 else 4
    for rank, (measured, built) in enumerate(found):
        at = sizes.coordinates(rank)
        blocks = range(half) if at.pp == 0 else range(half, 4)
        place = RankPlace(sizes.tp, at.tp, config.shard_size, at.dp, config.tensor.sequence_parallel)
        kept = kept_bytes(sum(built), Sharing(sizes.dp, stage, config.shard_size), ElementBytes(value, total, 0))
        state = state_sizes(shape, place, blocks, apart=sizes.pp == 2)
        assert measured == replace(kept, optimizer=kept.optimizer + 2 * state.num_bytes(total))


def test_8_bit_state_takes_a_quarter_and_a_bit() -> None:
    shape = DecoderShape.of(run_file(GPT2, model={"hidden_size": 1280, "intermediate_size": None}).model)
    state, psi = state_sizes(shape, RankPlace(), range(4)), num_parameters(shape)
    assert 2 * state.num_bytes(4) / psi == pytest.approx(2 + 8 / 256, rel=0.01)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_tied_table_on_two_ranks_lies_apart(ranks: RankPool, stage: int) -> None:
    config = run_file(GPT2, layout={"pp": 2, "dp": 2}, zero={"stage": stage}, train={"micro_batch_size": 2})
    shape = DecoderShape.of(config.model)
    found = ranks.run(4, held, config, 1)
    built = [sizes for _, sizes in found]
    blocks = [list(range(len(built[0]) - 1)), list(range(len(built[0]) - 1, 4))]
    for rank, (measured, sizes) in enumerate(found):
        assert sizes == buckets_of_rank(shape, 1, config.shard_size, blocks[rank // 2], apart=True)
        sharing = Sharing(2, config.zero_stage, config.shard_size)
        assert measured == kept_bytes(sum(sizes), sharing, ElementBytes(8, 8, 2))
