"""Oracle: one process in float64, the whole batch at once: no layout changes what sparse attention learns."""

from pathlib import Path
from typing import Any

import pytest

from megalm.run_config import RunConfig
from megalm.verify.compare import Tolerance
from tests.ranks import RankPool
from tests.verify import encoder_runs as encoders
from tests.verify.encoder_runs import BERT, ELECTRA, PAIRS, REPLACED
from tests.verify.pairs_corpus import write_pairs_corpus
from tests.verify.runs import GPT2, LLAMA, NEOX, VOCAB_SIZE, assert_no_difference, run_file, seen_alone

PATTERNS: dict[str, dict[str, Any]] = {
    GPT2: {
        **{"pattern": "block_sparse", "block_size": 5, "num_local_blocks": 2},
        **{"num_global_blocks": 1, "num_random_blocks": 1},
    },
    NEOX: {"pattern": "dilated", "window": 3, "dilation": 2, "num_dense_layers": 1},
    LLAMA: {"pattern": "sliding_window", "window": 4},
}
"""By models with dropout of attention's probabilities, or of the rows."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dp": (GPT2, {"layout": {"dp": 2}, "train": {"micro_batch_size": 4}}),
    "tp": (LLAMA, {"layout": {"tp": 2}, "data": {"reset_attention": True}}),
    "tp, rows cut": (GPT2, {"layout": {"tp": 2}, "tensor": {"sequence_parallel": True}}),
    "pp": (NEOX, {"layout": {"pp": 2}, "train": {"micro_batch_size": 2}, "pipeline": {"schedule": "zb-h1"}}),
    "tp pp": (
        GPT2,
        {"layout": {"tp": 2, "pp": 2}, "train": {"micro_batch_size": 5}, "data": {"reset_attention": True}},
    ),
    "zero 3": (LLAMA, {"layout": {"dp": 2}, "zero": {"stage": 3}, "train": {"micro_batch_size": 2}}),
    "recomputed": (NEOX, {"recompute": {"mode": "full"}, "train": {"micro_batch_size": 7}}),
    "recomputed, tp": (
        LLAMA,
        {"layout": {"tp": 2}, "recompute": {"mode": "selective", "operations": ["attention_core"]}},
    ),
}
ENCODER_LAYOUTS: list[dict[str, Any]] = [
    {"layout": {"tp": 2, "pp": 2}, "train": {"micro_batch_size": 5}},
    {"layout": {"dp": 2}, "zero": {"stage": 3}, "recompute": {"mode": "full"}},
]


def run_of(model: str, **sections: Any) -> RunConfig:
    own = {"attention": PATTERNS[model], "max_position_embeddings": 40}
    train = {"seq_length": 37, **sections.pop("train", {})}
    return run_file(model, model=own, train=train, **sections)


@pytest.mark.parametrize("case", CASES)
def test_no_layout_changes_what_is_learned(ranks: RankPool, case: str) -> None:
    model, sections = CASES[case]
    data = {"data": sections["data"]} if "data" in sections else {}
    assert_no_difference(ranks, run_of(model, **sections), run_of(model, **data), Tolerance.of("fp64"))


@pytest.mark.parametrize("sections", ENCODER_LAYOUTS, ids=["tp pp", "zero 3, recomputed"])
def test_nor_what_an_encoder_learns(ranks: RankPool, tmp_path: Path, sections: dict[str, Any]) -> None:
    """Pairs of texts with padding behind them, seen to both sides."""
    corpus = write_pairs_corpus(tmp_path, VOCAB_SIZE)
    pattern = {**PATTERNS[GPT2], "block_size": 2, "num_local_blocks": 1}
    model = {**BERT, "attention": pattern}
    config = encoders.run_file(model, PAIRS, corpus, **sections)
    assert_no_difference(ranks, config, encoders.run_file(model, PAIRS, corpus), Tolerance.of("fp64"))


def test_nor_what_a_generator_and_a_discriminator_learn(ranks: RankPool, tmp_path: Path) -> None:
    corpus = write_pairs_corpus(tmp_path, VOCAB_SIZE)
    model = {**ELECTRA, "attention": {**PATTERNS[GPT2], "block_size": 2, "num_local_blocks": 1}}
    config = encoders.run_file(model, REPLACED, corpus, layout={"tp": 2, "pp": 2}, train={"micro_batch_size": 5})
    assert_no_difference(ranks, config, encoders.run_file(model, REPLACED, corpus), Tolerance.of("fp64"))


def test_a_pattern_changes_what_is_learned() -> None:
    dense = run_file(LLAMA, model={"max_position_embeddings": 40}, train={"seq_length": 37})
    assert abs(seen_alone(run_of(LLAMA)).losses[0] - seen_alone(dense).losses[0]) > 1e-6
