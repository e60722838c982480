"""Tiny runs of several tasks: two that ask for tokens, and two of records with heads of their own."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megalm.run_config import RunConfig
from megalm.validation import validate
from tests.data.test_record_cuts import Parts, corpus
from tests.verify.runs import MODELS, VOCAB_SIZE

WINDOWS = {"train": [{"path": "tests.verify.runs:random_windows"}]}


def labelled(prefix: Path, num_labels: int) -> str:
    """Write texts of one to twenty tokens, each with a label."""
    generator = random.Random(num_labels)
    texts: list[Parts] = [
        [(0, generator.choices(range(VOCAB_SIZE), k=generator.randint(1, 20))), (2, [generator.randrange(num_labels)])]
        for _ in range(60)
    ]
    corpus(prefix, texts)
    return str(prefix)


def conversations(prefix: Path) -> str:
    """Write records of a question and an answer of one to five tokens each."""
    generator = random.Random(1)
    records: list[Parts] = [
        [(mode, generator.choices(range(VOCAB_SIZE), k=generator.randint(1, 5))) for mode in (0, 1)] for _ in range(60)
    ]
    corpus(prefix, records)
    return str(prefix)


def tasks_for_a_decoder(folder: Path) -> list[dict[str, Any]]:
    """Four tasks, of 2, 4, 2 and 4 samples of each global batch."""
    return [
        {"name": "docs", "data": WINDOWS, "samples": 2, "weight": 0.5},
        {
            "name": "kind",
            "objective": {"name": "classify"},
            "data": {"train": [{"path": labelled(folder / "kinds", 4)}]},
            "samples": 4,
            "num_labels": 4,
        },
        {
            "name": "talks",
            "objective": {"name": "instruct"},
            "data": {"train": [{"path": conversations(folder / "talks")}], "reset_attention": False},
            "samples": 2,
            "weight": 2.0,
        },
        {
            "name": "place",
            "objective": {"name": "classify"},
            "data": {"train": [{"path": labelled(folder / "places", 3)}]},
            "samples": 4,
            "weight": 0.25,
            "num_labels": 3,
        },
    ]


def multitask(model: str, tasks: list[dict[str, Any]], /, **sections: Mapping[str, Any]) -> RunConfig:
    """Return the run of one of ``MODELS``, of 12 samples a step; sections are merged into the defaults."""
    tree: dict[str, dict[str, Any]] = {
        "model": {"num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 16, **MODELS[model]},
        "objective": {"name": "multitask", "tasks": tasks},
        "train": {"precision": "fp64", "global_batch_size": 12, "micro_batch_size": 3, "seq_length": 13},
        "optimizer": {"lr": 1e-2, "clip_grad_norm": 0.5},
    }
    for name, fields in sections.items():
        tree[name] = {**tree.get(name, {}), **fields}
    return validate(RunConfig, tree)
