"""Oracle: one process in float64, the whole batch at once: no layout changes what an encoder learns."""

from pathlib import Path
from typing import Any

import pytest

from megalm.run_config import RunConfig
from megalm.validation import validate
from megalm.verify.compare import Tolerance, compare
from tests.ranks import RankPool
from tests.verify.pairs_corpus import write_pairs_corpus
from tests.verify.runs import VOCAB_SIZE, seen_alone, seen_by_rank

DROPS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
BERT = {"family": "bert", "hidden_size": 40, "num_attention_heads": 5, **DROPS}
BERT_KEEPS = {"family": "bert", "hidden_size": 32, "num_attention_heads": 4, "hidden_act": "gelu_new"}
ROBERTA = {"family": "roberta", "hidden_size": 32, "num_attention_heads": 4, **DROPS}
UNTIED = {**ROBERTA, "tie_word_embeddings": False, "attention_probs_dropout_prob": 0.0}
PAIRS: dict[str, Any] = {"name": "mlm_nsp", "nsp_weight": 0.5}
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


def run_file(model: dict[str, Any], objective: dict[str, Any], corpus: tuple[str, str], **sections: Any) -> RunConfig:
    path, tokenizer = corpus
    tree: dict[str, dict[str, Any]] = {
        "model": {"num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 24, **model},
        "objective": objective,
        "data": {"train": [{"path": path}], "tokenizer": tokenizer},
        "train": {"precision": "fp64", "global_batch_size": 12, "micro_batch_size": 12, "seq_length": 21},
        "optimizer": {"lr": 1e-2, "clip_grad_norm": 0.5},
    }
    for name, fields in sections.items():
        tree[name] = {**tree.get(name, {}), **fields}
    return validate(RunConfig, tree)


@pytest.mark.parametrize("case", CASES)
def test_no_layout_changes_what_is_learned(ranks: RankPool, corpus: tuple[str, str], case: str) -> None:
    model, objective, sections = CASES[case]
    config = run_file(model, objective, corpus, **sections)
    seen = ranks.run(config.layout.world_size, seen_by_rank, config)
    data = {"data": sections["data"]} if "data" in sections else {}
    reference = seen_alone(run_file(model, objective, corpus, **data))
    findings = compare(reference, seen, Tolerance.of("fp64"), config.optimizer.lr)
    assert [finding for finding in findings if not finding.agrees] == []
    assert len(reference.losses) == 2
    assert reference.grad_norms[0] > 0
