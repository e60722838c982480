"""Oracle: one process in float64, the whole batch at once; no layout may change an encoder-decoder's numbers."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from megalm.verify.compare import Tolerance
from megalm.verify.probe import Probe
from tests.ranks import RankPool
from tests.verify.encoder_decoder_runs import BART, T5, T5_UNTIED, run_file, tokenizer_of_numbers
from tests.verify.runs import assert_as_alone, seen_alone

SELECTIVE = {"mode": "selective", "operations": ["norm", "activation", "attention_core"]}
SP: dict[str, Any] = {"tensor": {"sequence_parallel": True}}

CASES: list[tuple[str, dict[str, int], int, dict[str, Any]]] = [
    # model, layout, micro-batch size, further sections
    (T5, {"dp": 2}, 4, {}),
    (T5, {"tp": 2}, 5, SP),
    (T5, {"pp": 2}, 3, {"pipeline": {"schedule": "zb-h1"}}),
    (T5, {"tp": 2, "pp": 2}, 4, {"recompute": {"mode": "full"}}),
    (T5, {"dp": 2}, 3, {"zero": {"stage": 3}}),
    (T5, {"dp": 2, "pp": 2}, 2, {"zero": {"stage": 3}, "pipeline": {"schedule": "interleaved"}}),
    (T5_UNTIED, {"dp": 2}, 6, {"zero": {"stage": 2}, "recompute": SELECTIVE}),
    (T5_UNTIED, {"tp": 3}, 12, {}),
    (T5_UNTIED, {"pp": 3}, 4, {"recompute": {"mode": "full", "every": 2}}),
    (T5_UNTIED, {"tp": 2, "pp": 2}, 4, {**SP, "pipeline": {"schedule": "gpipe"}}),
    (T5_UNTIED, {"dp": 2, "tp": 2}, 3, {**SP, "zero": {"stage": 3}}),
    (BART, {"dp": 2}, 4, {}),
    (BART, {"tp": 2}, 5, SP),
    (BART, {"pp": 2}, 3, {"pipeline": {"schedule": "zb-h1"}}),
    (BART, {"tp": 2, "pp": 2}, 4, {"recompute": {"mode": "full"}}),
    (BART, {"dp": 2}, 3, {"zero": {"stage": 3}, "recompute": SELECTIVE}),
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_of_numbers(tmp_path_factory.mktemp("tokenizer"))


@cache
def alone(model: str, tokenizer: Path) -> Probe:
    return seen_alone(run_file(model, tokenizer))


@pytest.mark.parametrize(("model", "layout", "micro_batch_size", "sections"), CASES)
def test_no_layout_changes_the_result(
    ranks: RankPool,
    tokenizer: Path,
    model: str,
    layout: dict[str, int],
    micro_batch_size: int,
    sections: dict[str, Any],
) -> None:
    config = run_file(model, tokenizer, **sections, layout=layout, train={"micro_batch_size": micro_batch_size})
    assert_as_alone(ranks, config, alone(model, tokenizer), Tolerance.of("fp64"))
