"""Oracle: the ledger of one real step, entry by entry and to the byte."""

import pytest

from megalm.models.decoder_shape import DecoderShape
from megalm.plan.buckets import bucket_elements
from megalm.plan.communication import step_communication
from megalm.plan.data_exchange import Sharing, data_exchange
from tests.ranks import RankPool
from tests.verify.runs import GPT2, GPT2_UNTIED, LLAMA, LLAMA_TIED, NEOX, NEOX_TIED, ledger_of_rank, run_file


@pytest.mark.parametrize(
    ("model", "layout", "sequence_parallel", "microbatches"),
    [
        (GPT2, {"tp": 2}, False, [12]),
        (GPT2, {"tp": 2}, True, [5, 5, 2]),
        (GPT2_UNTIED, {"dp": 2, "tp": 2}, True, [4, 2]),
        (NEOX, {"dp": 2}, False, [6]),
        (NEOX_TIED, {"tp": 3}, True, [12]),
        (LLAMA, {"tp": 2}, False, [12]),
        (LLAMA_TIED, {"dp": 2, "tp": 2}, True, [3, 3]),
    ],
)
def test_closed_form_is_what_the_ledger_counts(
    ranks: RankPool, model: str, layout: dict[str, int], sequence_parallel: bool, microbatches: list[int]
) -> None:
    config = run_file(
        model,
        layout=layout,
        tensor={"sequence_parallel": sequence_parallel},
        train={"micro_batch_size": microbatches[0]},
    )
    tp_size = config.layout.tp
    ledgers = ranks.run(config.layout.world_size, ledger_of_rank, config)
    for rank, ledger in enumerate(ledgers):
        expected = step_communication(
            DecoderShape.of(config.model),
            data_size=config.layout.dp,
            tp_size=tp_size,
            tp_rank=rank % tp_size,
            sequence_parallel=sequence_parallel,
            microbatch_tokens=[samples * config.train.seq_length for samples in microbatches],
            dtype="float64",
        )
        assert ledger.counts() == expected


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(
    ("model", "layout", "shard_size", "prefetch", "microbatches", "schedule"),
    [
        (GPT2, {"dp": 3}, 3, 1, [2, 2], "1f1b"),
        (LLAMA_TIED, {"dp": 2, "tp": 2}, 2, 0, [6], "1f1b"),
        (NEOX, {"dp": 4}, 2, 2, [1, 1, 1], "gpipe"),
        (NEOX_TIED, {"dp": 2, "tp": 2}, 2, 5, [2, 2, 2], "1f1b"),
    ],
)
def test_what_zero_exchanges_is_what_the_ledger_counts(
    ranks: RankPool,
    stage: int,
    model: str,
    layout: dict[str, int],
    shard_size: int,
    prefetch: int,
    microbatches: list[int],
    schedule: str,
) -> None:
    config = run_file(
        model,
        layout=layout,
        zero={"stage": stage, "shard_size": shard_size, "prefetch": prefetch},
        tensor={"sequence_parallel": "tp" in layout},
        pipeline={"schedule": schedule},
        train={"micro_batch_size": microbatches[0]},
    )
    for rank, ledger in enumerate(ranks.run(config.layout.world_size, ledger_of_rank, config)):
        expected = step_communication(
            DecoderShape.of(config.model),
            data_size=config.layout.dp,
            tp_size=config.layout.tp,
            tp_rank=rank % config.layout.tp,
            sequence_parallel=config.tensor.sequence_parallel,
            microbatch_tokens=[samples * config.train.seq_length for samples in microbatches],
            dtype="float64",
            zero=Sharing(config.layout.dp, stage, shard_size, prefetch, schedule),
        )
        assert ledger.counts() == expected


@pytest.mark.parametrize("num_microbatches", [1, 3])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_zero_has_the_volume_of_the_paper(stage: int, num_microbatches: int) -> None:
    """In units of all elements: 2, 2, m + 1 and, each block gathered for every use, 3 m less what stays gathered."""
    shape = DecoderShape.of(run_file(GPT2_UNTIED).model)
    sharing = Sharing(4, stage, 4 if stage else 1, prefetch=0)
    sizes = bucket_elements(shape, 1, sharing.shard_size)
    entries = data_exchange(shape, sharing, 1, num_microbatches, "float32")
    volume = sum(entry.volume * count for entry, count in entries.items() if not entry.scalar) // 4
    m, whole = num_microbatches, sum(sizes)
    stays = m * sizes[-1] + (m - 1) * sizes[0]  # the head goes back at once, the embedding forward again at once
    expected = {0: 2 * whole, 1: 2 * whole, 2: (m + 1) * whole, 3: 3 * m * whole - stays}
    assert volume == expected[stage]


def test_both_forms_have_the_volume_of_the_papers() -> None:
    """2 + 2 all-reduces a layer; under sequence parallelism the same volume, and two more gathers a layer."""
    shape = DecoderShape.of(run_file(GPT2).model)
    activations = 26 * shape.hidden_size * 4

    def volume(sequence_parallel: bool) -> int:
        entries = step_communication(
            shape,
            data_size=1,
            tp_size=2,
            tp_rank=0,
            sequence_parallel=sequence_parallel,
            microbatch_tokens=[26],
            dtype="float32",
        )
        return sum(
            entry.volume * count
            for entry, count in entries.items()
            if not entry.scalar and entry.payload == activations
        )

    assert volume(False) == 2 * activations * (4 * shape.num_layers + 2)
    assert volume(True) - volume(False) == activations * 2 * shape.num_layers
