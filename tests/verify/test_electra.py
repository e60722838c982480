"""Oracle: one process in float64, the whole batch at once: no layout changes what generator and discriminator learn."""

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
MODEL: dict[str, Any] = {
    "family": "electra",
    "num_hidden_layers": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
}
SMALL = {**MODEL, "hidden_size": 40, "num_attention_heads": 5, "embedding_size": 24, "generator_size": 0.4, **DROPS}
BASE = {**MODEL, "hidden_size": 32, "num_attention_heads": 4, "generator_size": 0.5, "tie_word_embeddings": False}
SP: dict[str, Any] = {"tensor": {"sequence_parallel": True}}
SELECTIVE = {"mode": "selective", "operations": ["attention_core", "activation", "norm"]}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dp": (SMALL, {"layout": {"dp": 2}, "train": {"micro_batch_size": 4}}),
    "tp": (SMALL, {"layout": {"tp": 2}, "train": {"micro_batch_size": 5}}),
    "tp, rows cut": (SMALL, {"layout": {"tp": 2}, **SP, "recompute": {"mode": "full"}}),
    "pp": (SMALL, {"layout": {"pp": 2}, "train": {"micro_batch_size": 3}, "pipeline": {"schedule": "zb-h1"}}),
    "pp, the head behind the generator": (
        SMALL,
        {"layout": {"pp": 2}, "train": {"micro_batch_size": 5}, "pipeline": {"blocks_per_stage": [4, 4]}},
    ),
    "tp pp": (BASE, {"layout": {"tp": 2, "pp": 2}, "train": {"micro_batch_size": 4}}),
    "tp pp, rows cut, recomputed": (
        SMALL,
        {**SP, "layout": {"tp": 2, "pp": 2}, "train": {"micro_batch_size": 4}, "recompute": {"mode": "full"}},
    ),
    "zero 3": (SMALL, {"layout": {"dp": 2}, "zero": {"stage": 3}, "train": {"micro_batch_size": 2}}),
    "zero 3, pp": (
        BASE,
        {
            "layout": {"dp": 2, "pp": 2},
            "zero": {"stage": 3},
            "pipeline": {"schedule": "interleaved"},
            "train": {"micro_batch_size": 2},
        },
    ),
    "recomputed": (SMALL, {"recompute": {"mode": "full"}, "train": {"micro_batch_size": 7}}),
    "recomputed by operation": (SMALL, {"recompute": SELECTIVE, "layout": {"dp": 2}, "zero": {"stage": 2}}),
    "a window of attention, tp": (
        {**SMALL, "attention": {"pattern": "sliding_window", "window": 5}},
        {"layout": {"tp": 2}, "recompute": {"mode": "full"}},
    ),
    "documents apart": (BASE, {"layout": {"dp": 2}, "data": {"reset_attention": True}}),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pairs_corpus(Path(tmp_path_factory.mktemp("texts")), VOCAB_SIZE)


def run_file(model: dict[str, Any], corpus: tuple[str, str], **sections: Any) -> RunConfig:
    path, tokenizer = corpus
    tree: dict[str, dict[str, Any]] = {
        "model": model,
        "objective": {"name": "rtd", "noise_density": 0.3, "rtd_weight": 5.0},
        "data": {"train": [{"path": path}], "tokenizer": tokenizer},
        "train": {"precision": "fp64", "global_batch_size": 12, "micro_batch_size": 12, "seq_length": 21},
        "optimizer": {"lr": 1e-2, "clip_grad_norm": 0.5},
    }
    for name, fields in sections.items():
        tree[name] = {**tree.get(name, {}), **fields}
    return validate(RunConfig, tree)


@pytest.mark.parametrize("case", CASES)
def test_no_layout_changes_what_is_learned(ranks: RankPool, corpus: tuple[str, str], case: str) -> None:
    model, sections = CASES[case]
    config = run_file(model, corpus, **sections)
    seen = ranks.run(config.layout.world_size, seen_by_rank, config)
    data = {"data": sections["data"]} if "data" in sections else {}
    reference = seen_alone(run_file(model, corpus, **data))
    findings = compare(reference, seen, Tolerance.of("fp64"), config.optimizer.lr)
    assert [finding for finding in findings if not finding.agrees] == []
    assert len(reference.losses) == 2
    assert reference.grad_norms[0] > 0
