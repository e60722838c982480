"""Oracle: one process in float64 that keeps everything, the whole batch at once: no mode changes the result.

Layouts and modes meet pairwise, with dropout, several micro-batches, and packed documents in half of the cases.
"""

from typing import Any

import pytest
import torch

from megalm.verify.compare import Tolerance
from tests.ranks import RankPool
from tests.verify.runs import (
    GPT2,
    GPT2_UNTIED,
    LLAMA,
    LLAMA_TIED,
    NEOX,
    NEOX_TIED,
    assert_as_alone,
    run_file,
    seen_alone,
)
from tests.verify.test_probe import alone

ALL = ["attention_core", "activation", "norm"]
MODES: dict[str, dict[str, Any]] = {
    "selective": {"mode": "selective"},
    "all operations": {"mode": "selective", "operations": ALL},
    "full": {"mode": "full"},
    "every 2": {"mode": "full", "every": 2},
}
CUT = {"sequence_parallel": True}
LAYOUTS: dict[str, dict[str, dict[str, Any]]] = {
    "one process": {},
    "zb-v alone": {"pipeline": {"schedule": "zb-v"}},
    "dp2": {"layout": {"dp": 2}},
    "tp2": {"layout": {"tp": 2}},
    "tp2 cut": {"layout": {"tp": 2}, "tensor": CUT},
    "1f1b": {"layout": {"pp": 2}},
    "zb-h1": {"layout": {"pp": 2}, "pipeline": {"schedule": "zb-h1"}},
    "zb-v": {"layout": {"pp": 2, "tp": 2}, "tensor": CUT, "pipeline": {"schedule": "zb-v"}},
    "zero 3": {"layout": {"dp": 2}, "zero": {"stage": 3}},
}
CASES = [
    # model, mode, layout, micro-batch size, attention reset
    *((GPT2, mode, layout, 5, False) for layout in ("one process", "tp2 cut", "zb-h1") for mode in MODES),
    (LLAMA, "full", "one process", 4, True),
    (LLAMA, "all operations", "zb-v alone", 5, True),
    (GPT2, "full", "zb-v alone", 5, False),
    (GPT2, "selective", "dp2", 2, True),
    (NEOX, "full", "dp2", 3, False),
    (NEOX, "all operations", "tp2", 5, True),
    (GPT2, "full", "tp2", 5, True),
    (LLAMA, "every 2", "tp2", 12, False),
    (LLAMA_TIED, "selective", "tp2", 4, True),
    (LLAMA, "full", "tp2 cut", 5, True),
    (NEOX, "full", "tp2 cut", 4, False),
    (GPT2, "full", "1f1b", 2, True),
    (NEOX_TIED, "every 2", "1f1b", 4, False),
    (GPT2_UNTIED, "selective", "1f1b", 3, False),
    (LLAMA, "full", "zb-h1", 4, True),
    (GPT2, "full", "zb-v", 5, False),
    (LLAMA, "all operations", "zb-v", 4, True),
    (GPT2, "full", "zero 3", 2, False),
    (LLAMA, "all operations", "zero 3", 3, True),
    (NEOX, "every 2", "zero 3", 2, False),
]


@pytest.mark.parametrize(("model", "mode", "layout", "micro_batch_size", "reset"), CASES)
def test_recomputation_does_not_change_the_result(
    ranks: RankPool, model: str, mode: str, layout: str, micro_batch_size: int, reset: bool
) -> None:
    config = run_file(
        model,
        recompute=MODES[mode],
        train={"micro_batch_size": micro_batch_size},
        data={"reset_attention": reset},
        **LAYOUTS[layout],
    )
    assert_as_alone(ranks, config, alone(model, reset), Tolerance.of("fp64"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [GPT2, LLAMA])
@pytest.mark.parametrize("mode", ["all operations", "full"])
def test_on_one_process_it_is_the_same_to_the_bit(model: str, precision: str, mode: str) -> None:
    train = {"precision": precision, "micro_batch_size": 5}
    kept, again = (seen_alone(run_file(model, train=train, recompute=section)) for section in ({}, MODES[mode]))
    assert again.losses == kept.losses
    assert again.grad_norms == kept.grad_norms
    assert all(torch.equal(ours.tensor, theirs.tensor) for ours, theirs in zip(again.held, kept.held, strict=True))
