"""Oracle: the ledger of one real step with recomputation, entry by entry and to the byte; the papers' volumes."""

from typing import Any

import pytest

from megalm.models.decoder_shape import DecoderShape
from megalm.plan.communication import step_communication
from megalm.recompute import RecomputeConfig
from tests.ranks import RankPool
from tests.verify.runs import GPT2, LLAMA, NEOX, ledger_of_rank, run_file


@pytest.mark.parametrize("recompute", [{"mode": "selective"}, {"mode": "full"}, {"mode": "full", "every": 2}], ids=str)
@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("model", [GPT2, NEOX, LLAMA])
def test_what_is_computed_again_sums_nothing_that_is_not_read(
    ranks: RankPool, model: str, sequence_parallel: bool, recompute: dict[str, Any]
) -> None:
    config = run_file(
        model,
        layout={"tp": 2},
        tensor={"sequence_parallel": sequence_parallel},
        train={"micro_batch_size": 7},
        recompute=recompute,
    )
    for rank, ledger in enumerate(ranks.run(2, ledger_of_rank, config)):
        expected = step_communication(
            DecoderShape.of(config.model),
            data_size=1,
            tp_size=2,
            tp_rank=rank,
            sequence_parallel=sequence_parallel,
            microbatch_tokens=[7 * 13, 5 * 13],
            dtype="float64",
            recompute=config.recompute,
        )
        assert ledger.counts() == expected


def test_recomputation_adds_one_sum_a_layer_at_most() -> None:
    """Against the 4 all-reduces of a layer; none where attention stands beside the MLP, nor for single operations."""

    def volume(model: str, sequence_parallel: bool, **recompute: Any) -> int:
        entries = step_communication(
            DecoderShape.of(run_file(model).model),
            data_size=1,
            tp_size=2,
            tp_rank=0,
            sequence_parallel=sequence_parallel,
            microbatch_tokens=[26],
            dtype="float32",
            recompute=RecomputeConfig(**recompute),
        )
        return sum(entry.volume * count for entry, count in entries.items())

    activations = 26 * 40 * 4
    assert volume(GPT2, False, mode="full") - volume(GPT2, False) == 2 * 2 * activations
    assert volume(GPT2, True, mode="full") - volume(GPT2, True) == 2 * activations
    assert volume(GPT2, False, mode="full", every=2) - volume(GPT2, False) == 2 * activations
    for sequence_parallel in (False, True):
        assert volume(NEOX, sequence_parallel, mode="full") == volume(NEOX, sequence_parallel)
        assert volume(GPT2, sequence_parallel, mode="selective") == volume(GPT2, sequence_parallel)
