"""Oracle: one process in float64, the whole batch at once; what is learned of records depends on no layout."""

import random
from pathlib import Path
from typing import Any

import pytest

from megalm.run_config import RunConfig
from megalm.verify.compare import Tolerance
from tests.data.test_record_cuts import Parts, corpus
from tests.ranks import RankPool
from tests.verify.runs import GPT2, LLAMA, VOCAB_SIZE, assert_as_alone, run_file, seen_alone

LAYOUTS: list[dict[str, Any]] = [
    {"layout": {"dp": 2}},
    {"layout": {"tp": 2}, "tensor": {"sequence_parallel": True}},
    {"layout": {"pp": 2}},
    {"layout": {"tp": 2, "pp": 2}, "recompute": {"mode": "full"}},
    {"layout": {"dp": 2}, "zero": {"stage": 3}},
]


def conversations(prefix: Path) -> str:
    """Write records of several turns, of one to twenty tokens each."""
    generator = random.Random(1)
    records: list[Parts] = [
        [(turn % 2, generator.choices(range(VOCAB_SIZE), k=generator.randint(1, 5))) for turn in range(2 + 2 * (n % 2))]
        for n in range(60)
    ]
    corpus(prefix, records)
    return str(prefix)


def instructed(model: str, data: str, **sections: Any) -> RunConfig:
    sections["train"] = {"micro_batch_size": 5, **sections.get("train", {})}
    return run_file(model, objective={"name": "instruct"}, data={"train": [{"path": data}]}, **sections)


def labelled(prefix: Path) -> str:
    """Write texts of one to twenty tokens, of four classes."""
    generator = random.Random(2)
    texts: list[Parts] = [
        [(0, generator.choices(range(VOCAB_SIZE), k=generator.randint(1, 20))), (2, [generator.randrange(4)])]
        for _ in range(60)
    ]
    corpus(prefix, texts)
    return str(prefix)


def classifying(model: str, data: str, **sections: Any) -> RunConfig:
    sections["train"] = {"micro_batch_size": 5, **sections.get("train", {})}
    named: dict[str, Any] = {
        "objective": {"name": "classify"},
        "data": {"train": [{"path": data}]},
        "model": {"num_labels": 4},
    }
    return run_file(model, **named, **sections)


@pytest.mark.parametrize("sections", LAYOUTS, ids=str)
def test_no_layout_changes_what_is_learned_of_labels(ranks: RankPool, tmp_path: Path, sections: dict[str, Any]) -> None:
    model, data = LLAMA if "pp" in sections["layout"] else GPT2, labelled(tmp_path / "texts")
    config = classifying(model, data, **sections)
    reference = seen_alone(classifying(model, data, train={"micro_batch_size": 12}))
    assert_as_alone(ranks, config, reference, Tolerance.of("fp64"))
    assert {"score.classifier.weight"} < {held.spec.name for held in reference.held}


@pytest.mark.parametrize("sections", LAYOUTS, ids=str)
def test_no_layout_changes_what_is_learned_of_answers(
    ranks: RankPool, tmp_path: Path, sections: dict[str, Any]
) -> None:
    model, data = LLAMA if "pp" in sections["layout"] else GPT2, conversations(tmp_path / "talks")
    config = instructed(model, data, **sections)
    assert_as_alone(
        ranks, config, seen_alone(instructed(model, data, train={"micro_batch_size": 12})), Tolerance.of("fp64")
    )
