"""Oracle: one process in float64, each task's samples at once; no layout changes what several tasks teach together."""

from pathlib import Path
from typing import Any

import pytest

from megalm.verify.compare import Tolerance
from tests.ranks import RankPool
from tests.verify.multitask_runs import multitask, tasks_for_a_decoder
from tests.verify.runs import GPT2, LLAMA, assert_as_alone, seen_alone

LAYOUTS: list[dict[str, Any]] = [
    {"layout": {"dp": 2}},
    {"layout": {"tp": 2}, "tensor": {"sequence_parallel": True}, "recompute": {"mode": "full"}},
    {"layout": {"pp": 2}, "train": {"micro_batch_size": 1}},
    {"layout": {"tp": 2, "pp": 2}, "pipeline": {"schedule": "zb-v"}},
    {"layout": {"dp": 2}, "zero": {"stage": 3}, "train": {"micro_batch_size": 1}},
]


@pytest.mark.parametrize("sections", LAYOUTS, ids=str)
def test_no_layout_changes_what_tasks_teach(ranks: RankPool, tmp_path: Path, sections: dict[str, Any]) -> None:
    model, tasks = LLAMA if "pp" in sections["layout"] else GPT2, tasks_for_a_decoder(tmp_path)
    config = multitask(model, tasks, **sections)
    reference = seen_alone(multitask(model, tasks, train={"micro_batch_size": 12}))
    assert_as_alone(ranks, config, reference, Tolerance.of("fp64"))
    heads = {held.spec.shape for held in reference.held if "task_heads" in held.spec.name}
    assert {shape[0] for shape in heads} == {3, 4}


@pytest.mark.parametrize("sections", LAYOUTS, ids=str)
def test_no_layout_changes_what_towers_learn(ranks: RankPool, tmp_path: Path, sections: dict[str, Any]) -> None:
    """SGD: the gradient of a key's bias is rounding alone, which AdamW would make a step of, and the penalty see."""
    model, tasks = LLAMA if "pp" in sections["layout"] else GPT2, tasks_for_a_decoder(tmp_path)
    sections = {**sections, "optimizer": {"name": "sgd", "lr": 0.1}}
    soft = {"sharing": "soft", "soft_penalty": 0.1}
    config = multitask(model, tasks, objective=soft, **sections)
    reference = seen_alone(
        multitask(model, tasks, objective=soft, optimizer=sections["optimizer"], train={"micro_batch_size": 12})
    )
    assert_as_alone(ranks, config, reference, Tolerance.of("fp64"))
    names = {held.spec.name.partition(".model.")[0] for held in reference.held}
    assert {f"towers.task_{task['name']}" for task in tasks} <= names
