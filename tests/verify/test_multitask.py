"""Oracle: one process in float64, each task's samples at once; no layout changes what several tasks teach together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megalm.run_config import RunConfig
from megalm.verify.compare import Tolerance
from megalm.verify.probe import Probe
from tests.ranks import RankPool
from tests.verify.encoder_decoder_runs import BART, T5
from tests.verify.multitask_runs import (
    BERT,
    multitask,
    tasks_for_a_decoder,
    tasks_for_an_encoder,
    tasks_for_an_encoder_decoder,
)
from tests.verify.runs import GPT2, LLAMA, assert_as_alone, seen_alone

SP: dict[str, Any] = {"tensor": {"sequence_parallel": True}}
CASES: list[tuple[str, dict[str, Any]]] = [
    (GPT2, {"layout": {"dp": 2}}),
    (GPT2, {"layout": {"tp": 2}, **SP, "recompute": {"mode": "full"}}),
    (LLAMA, {"layout": {"pp": 2}, "train": {"micro_batch_size": 1}}),
    (LLAMA, {"layout": {"tp": 2, "pp": 2}, "pipeline": {"schedule": "zb-v"}}),
    (GPT2, {"layout": {"dp": 2}, "zero": {"stage": 3}, "train": {"micro_batch_size": 1}}),
    (BERT, {"layout": {"dp": 2}, "zero": {"stage": 3}}),
    (BERT, {"layout": {"tp": 2}, **SP, "recompute": {"mode": "full"}}),
    (BERT, {"layout": {"pp": 2}, "train": {"micro_batch_size": 1}}),
    (BERT, {"layout": {"tp": 2, "pp": 2}, **SP, "pipeline": {"schedule": "zb-v"}}),
    (T5, {"layout": {"dp": 2}, "zero": {"stage": 3}}),
    (T5, {"layout": {"tp": 2}, "recompute": {"mode": "full"}}),
    (T5, {"layout": {"pp": 2}, "pipeline": {"schedule": "zb-h1"}}),
    (T5, {"layout": {"tp": 2, "pp": 2}, **SP}),
    (BART, {"layout": {"tp": 2, "pp": 2}, "recompute": {"mode": "full"}}),
]
TASKS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    GPT2: tasks_for_a_decoder,
    LLAMA: tasks_for_a_decoder,
    BERT: tasks_for_an_encoder,
    T5: tasks_for_an_encoder_decoder,
    BART: tasks_for_an_encoder_decoder,
}
SOFT: dict[str, Any] = {
    "objective": {"sharing": "soft", "soft_penalty": 0.1},
    "optimizer": {"name": "sgd", "lr": 0.1},
}


class References:
    """What one process sees, once for each model, and the runs to compare with it."""

    def __init__(self, folder: Path, shared: dict[str, Any]) -> None:
        self._folder, self._shared = folder, shared
        self._seen: dict[str, Probe] = {}

    def run(self, model: str, **sections: Any) -> RunConfig:
        folder = self._folder / model
        folder.mkdir(exist_ok=True)
        return multitask(model, TASKS[model](folder), **self._shared, **sections)

    def seen(self, model: str) -> Probe:
        if model not in self._seen:
            self._seen[model] = seen_alone(self.run(model, train={"micro_batch_size": 12}))
        return self._seen[model]


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> References:
    return References(tmp_path_factory.mktemp("hard"), {})


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> References:
    """SGD: the gradient of a key's bias is rounding alone, which AdamW would make a step of, and the penalty see."""
    return References(tmp_path_factory.mktemp("soft"), SOFT)


@pytest.mark.parametrize(("model", "sections"), CASES, ids=str)
def test_no_layout_changes_what_tasks_teach(
    ranks: RankPool, hard: References, model: str, sections: dict[str, Any]
) -> None:
    reference = hard.seen(model)
    assert_as_alone(ranks, hard.run(model, **sections), reference, Tolerance.of("fp64"))
    heads = {
        held.spec.shape
        for held in reference.held
        if "task_heads" in held.spec.name and ".classifier." in held.spec.name
    }
    assert {shape[0] for shape in heads} == (set() if model in (T5, BART) else {3, 4})


@pytest.mark.parametrize(("model", "sections"), CASES, ids=str)
def test_no_layout_changes_what_towers_learn(
    ranks: RankPool, soft: References, model: str, sections: dict[str, Any]
) -> None:
    config, reference = soft.run(model, **sections), soft.seen(model)
    assert_as_alone(ranks, config, reference, Tolerance.of("fp64"))
    names = {held.spec.name.split(".")[1] for held in reference.held}
    assert {f"task_{task.name}" for task in config.objective.tasks or []} == names
