"""Oracle: one process in float64, the whole batch at once: no layout changes what generator and discriminator learn."""

from pathlib import Path
from typing import Any

import pytest

from megalm.verify.compare import Tolerance
from tests.ranks import RankPool
from tests.verify.encoder_runs import ELECTRA, REPLACED, run_file
from tests.verify.pairs_corpus import write_pairs_corpus
from tests.verify.runs import VOCAB_SIZE, assert_no_difference

BASE = {
    **{"family": "electra", "hidden_size": 32, "num_attention_heads": 4, "initializer_range": 0.2},
    **{"generator_size": 0.5, "tie_word_embeddings": False},
}
SP: dict[str, Any] = {"tensor": {"sequence_parallel": True}}
SELECTIVE = {"mode": "selective", "operations": ["attention_core", "activation", "norm"]}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dp": (ELECTRA, {"layout": {"dp": 2}, "train": {"micro_batch_size": 4}}),
    "tp": (ELECTRA, {"layout": {"tp": 2}, "train": {"micro_batch_size": 5}}),
    "tp, rows cut": (ELECTRA, {"layout": {"tp": 2}, **SP, "recompute": {"mode": "full"}}),
    "pp": (ELECTRA, {"layout": {"pp": 2}, "train": {"micro_batch_size": 3}, "pipeline": {"schedule": "zb-h1"}}),
    "pp, the head behind the generator": (
        ELECTRA,
        {"layout": {"pp": 2}, "train": {"micro_batch_size": 5}, "pipeline": {"blocks_per_stage": [4, 4]}},
    ),
    "tp pp": (BASE, {"layout": {"tp": 2, "pp": 2}, "train": {"micro_batch_size": 4}}),
    "tp pp, rows cut, recomputed": (
        ELECTRA,
        {**SP, "layout": {"tp": 2, "pp": 2}, "train": {"micro_batch_size": 4}, "recompute": {"mode": "full"}},
    ),
    "zero 3": (ELECTRA, {"layout": {"dp": 2}, "zero": {"stage": 3}, "train": {"micro_batch_size": 2}}),
    "zero 3, pp": (
        BASE,
        {
            "layout": {"dp": 2, "pp": 2},
            "zero": {"stage": 3},
            "pipeline": {"schedule": "interleaved"},
            "train": {"micro_batch_size": 2},
        },
    ),
    "recomputed": (ELECTRA, {"recompute": {"mode": "full"}, "train": {"micro_batch_size": 7}}),
    "recomputed by operation": (ELECTRA, {"recompute": SELECTIVE, "layout": {"dp": 2}, "zero": {"stage": 2}}),
    "a window of attention, tp": (
        {**ELECTRA, "attention": {"pattern": "sliding_window", "window": 5}},
        {"layout": {"tp": 2}, "recompute": {"mode": "full"}},
    ),
    "documents apart": (BASE, {"layout": {"dp": 2}, "data": {"reset_attention": True}}),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pairs_corpus(Path(tmp_path_factory.mktemp("pairs")), VOCAB_SIZE)


@pytest.mark.parametrize("case", CASES)
def test_no_layout_changes_what_is_learned(ranks: RankPool, corpus: tuple[str, str], case: str) -> None:
    model, sections = CASES[case]
    data = {"data": sections["data"]} if "data" in sections else {}
    config = run_file(model, REPLACED, corpus, **sections)
    assert_no_difference(ranks, config, run_file(model, REPLACED, corpus, **data), Tolerance.of("fp64"))
