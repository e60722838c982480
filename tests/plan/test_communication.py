"""Oracle: the ledger of one real step, entry by entry and to the byte."""

import pytest

from megalm.models.decoder_shape import DecoderShape
from megalm.plan.communication import local_tensors, step_communication
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


def test_local_tensors_of_all_ranks_cover_the_model() -> None:
    shape = DecoderShape.of(run_file(GPT2).model)
    whole = [sum(tensors) for tensors in local_tensors(shape, 1, 0)]
    halves = [[sum(tensors) for tensors in local_tensors(shape, 2, rank)] for rank in range(2)]
    replicated = [16 * 40, *[6 * 40] * 2, 2 * 40]  # positions; norms and row-parallel biases; the last norm
    assert [a + b - twice for a, b, twice in zip(*halves, replicated, strict=True)] == whole
