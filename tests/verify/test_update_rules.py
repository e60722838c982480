"""Oracle: one process in float64, the whole batch at once; no update rule's result may depend on the layout."""

from functools import cache
from typing import Any

import pytest

from megalm.verify.compare import Tolerance
from megalm.verify.probe import Probe
from tests.ranks import RankPool
from tests.verify.runs import (
    GPT2,
    LLAMA,
    LLAMA_TIED,
    NEOX,
    NEOX_TIED,
    assert_as_alone,
    run_file,
    seen_alone,
)

WIDE: dict[str, Any] = {"model": {"intermediate_size": 600}}
"""Rows of several blocks, which two tensor ranks cut inside of one."""

CASES: list[tuple[str, int, str, dict[str, int], dict[str, Any]]] = [
    # rule, ZeRO stage, model, layout, further sections
    ("lamb", 0, GPT2, {"dp": 2}, {}),
    ("lamb", 1, GPT2, {"dp": 3}, {}),
    ("lamb", 2, NEOX, {"dp": 4}, {}),
    ("lamb", 3, LLAMA_TIED, {"dp": 2}, {}),
    ("lamb", 0, LLAMA, {"tp": 4}, {"tensor": {"sequence_parallel": True}}),
    ("lamb", 0, GPT2, {"tp": 3}, {}),
    ("lamb", 0, NEOX_TIED, {"pp": 2}, {}),
    ("lamb", 1, LLAMA, {"dp": 2, "tp": 2}, {"tensor": {"sequence_parallel": True}}),
    ("lamb", 2, GPT2, {"dp": 2, "pp": 2}, {"pipeline": {"schedule": "zb-h1"}}),
    ("lamb", 3, NEOX_TIED, {"dp": 2, "tp": 2, "pp": 2}, {}),
    ("lamb", 3, GPT2, {"dp": 4}, {"zero": {"shard_size": 2}}),
    ("lamb", 0, GPT2, {"tp": 2, "pp": 2}, {"optimizer": {"layer_lr_decay": 0.5}}),
    ("adamw", 0, GPT2, {"pp": 2}, {"optimizer": {"layer_lr_decay": 0.5}}),
    ("adamw", 3, GPT2, {"dp": 2, "pp": 2}, {"optimizer": {"layer_lr_decay": 0.5}}),
    ("adamw8bit", 0, GPT2, {"dp": 2}, WIDE),
    ("adamw8bit", 1, LLAMA, {"dp": 4}, WIDE),
    ("adamw8bit", 2, NEOX, {"dp": 3}, WIDE),
    ("adamw8bit", 3, LLAMA_TIED, {"dp": 2, "tp": 2}, {**WIDE, "tensor": {"sequence_parallel": True}}),
    ("adamw8bit", 0, GPT2, {"tp": 3}, WIDE),
    ("adamw8bit", 3, NEOX_TIED, {"dp": 2, "pp": 2}, WIDE),
    ("adamw8bit", 2, GPT2, {"dp": 2, "tp": 2, "pp": 2}, {**WIDE, "optimizer": {"layer_lr_decay": 0.5}}),
    ("adamw8bit", 1, GPT2, {"dp": 4}, {**WIDE, "zero": {"shard_size": 2}}),
    ("sgd", 0, GPT2, {"tp": 2}, {}),
    ("sgd", 3, LLAMA, {"dp": 2, "pp": 2}, {}),
]


@cache
def alone(rule: str, model: str, layer_lr_decay: float = 1.0) -> Probe:
    sections = WIDE if rule == "adamw8bit" else {}
    return seen_alone(run_file(model, **sections, optimizer={"name": rule, "layer_lr_decay": layer_lr_decay}))


@pytest.mark.parametrize(("rule", "stage", "model", "layout", "sections"), CASES)
def test_no_layout_changes_the_result(
    ranks: RankPool, rule: str, stage: int, model: str, layout: dict[str, int], sections: dict[str, Any]
) -> None:
    config = run_file(
        model,
        **{name: fields for name, fields in sections.items() if name not in ("zero", "optimizer")},
        layout=layout,
        zero={"stage": stage, **sections.get("zero", {})},
        optimizer={"name": rule, **sections.get("optimizer", {})},
        train={"micro_batch_size": 2},
    )
    assert_as_alone(ranks, config, alone(rule, model, config.optimizer.layer_lr_decay), Tolerance.of("fp64"))
