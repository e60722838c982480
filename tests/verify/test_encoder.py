"""Oracle: one process in float64, the whole batch at once: no layout changes what an encoder learns."""

from pathlib import Path
from typing import Any

import pytest

from megalm.verify.compare import Tolerance
from tests.ranks import RankPool
from tests.verify.encoder_runs import BERT, PAIRS, run_file
from tests.verify.pairs_corpus import write_pairs_corpus
from tests.verify.runs import VOCAB_SIZE, assert_no_difference

DROPS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
BERT_KEEPS = {"family": "bert", "hidden_size": 32, "num_attention_heads": 4, "hidden_act": "gelu_new"}
ROBERTA = {"family": "roberta", "hidden_size": 32, "num_attention_heads": 4, **DROPS}
UNTIED = {**ROBERTA, "tie_word_embeddings": False, "attention_probs_dropout_prob": 0.0}
TEXTS: dict[str, Any] = {"name": "mlm_nsp", "nsp": False, "whole_word": True}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "dp": (BERT, PAIRS, {"layout": {"dp": 2}, "train": {"micro_batch_size": 4}}),
    "tp": (BERT, PAIRS, {"layout": {"tp": 2}, "train": {"micro_batch_size": 5}}),
    "tp, rows cut": (BERT, PAIRS, {"layout": {"tp": 2}, "tensor": {"sequence_parallel": True}}),
    "pp": (BERT, PAIRS, {"layout": {"pp": 2}, "train": {"micro_batch_size": 2}}),
    "tp pp, rows cut": (
        BERT_KEEPS,
        PAIRS,
        {
            "layout": {"tp": 2, "pp": 2},
            "tensor": {"sequence_parallel": True},
            "pipeline": {"schedule": "zb-v"},
            "train": {"micro_batch_size": 3},
        },
    ),
    "zero 3": (BERT, PAIRS, {"layout": {"dp": 2}, "zero": {"stage": 3}, "train": {"micro_batch_size": 2}}),
    "recomputed": (BERT, PAIRS, {"recompute": {"mode": "full"}, "train": {"micro_batch_size": 7}}),
    "recomputed, tp, rows cut": (
        BERT,
        PAIRS,
        {"layout": {"tp": 2}, "tensor": {"sequence_parallel": True}, "recompute": {"mode": "full"}},
    ),
    "recomputed by operation": (
        BERT_KEEPS,
        PAIRS,
        {"recompute": {"mode": "selective", "operations": ["attention_core", "activation", "norm"]}},
    ),
    "roberta, tp pp": (ROBERTA, TEXTS, {"layout": {"tp": 2, "pp": 2}, "train": {"micro_batch_size": 5}}),
    "roberta untied, dp, reset": (
        UNTIED,
        TEXTS,
        {"layout": {"dp": 2}, "data": {"reset_attention": True}, "zero": {"stage": 2}},
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pairs_corpus(Path(tmp_path_factory.mktemp("pairs")), VOCAB_SIZE)


@pytest.mark.parametrize("case", CASES)
def test_no_layout_changes_what_is_learned(ranks: RankPool, corpus: tuple[str, str], case: str) -> None:
    model, objective, sections = CASES[case]
    data = {"data": sections["data"]} if "data" in sections else {}
    config = run_file(model, objective, corpus, **sections)
    assert_no_difference(ranks, config, run_file(model, objective, corpus, **data), Tolerance.of("fp64"))
