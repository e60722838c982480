"""Tiny runs of several tasks: two that ask for tokens, and two of records with heads of their own."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megalm.run_config import RunConfig
from megalm.validation import validate
from tests.data.test_record_cuts import Parts, corpus
from tests.verify import encoder_decoder_runs, encoder_runs, runs
from tests.verify.encoder_decoder_runs import tokenizer_of_numbers
from tests.verify.pairs_corpus import write_pairs_corpus
from tests.verify.runs import VOCAB_SIZE

WINDOWS = {"train": [{"path": "tests.verify.runs:random_windows"}]}
BERT = "bert, 5 heads, dropout"
MODELS: Mapping[str, Mapping[str, Any]] = {
    **{name: {"max_position_embeddings": 16, **fields} for name, fields in runs.MODELS.items()},
    **encoder_decoder_runs.MODELS,
    BERT: {"max_position_embeddings": 16, **encoder_runs.BERT},
}


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


def tasks_for_an_encoder(folder: Path) -> list[dict[str, Any]]:
    """Three tasks, of 6, 4 and 2 samples of each global batch: hidden tokens and pairs, and two that classify."""
    path, tokenizer = write_pairs_corpus(folder, VOCAB_SIZE)
    classify = {"objective": {"name": "classify"}}

    def data(path: str) -> dict[str, Any]:
        return {"data": {"train": [{"path": path}], "tokenizer": tokenizer}}

    return [
        {"name": "pairs", "objective": {"name": "mlm_nsp", "nsp_weight": 0.5}, **data(path), "samples": 6},
        {"name": "kind", **classify, **data(labelled(folder / "kinds", 4)), "samples": 4, "num_labels": 4},
        {
            "name": "place",
            **classify,
            **data(labelled(folder / "places", 3)),
            "samples": 2,
            "weight": 0.25,
            "num_labels": 3,
        },
    ]


def tasks_for_an_encoder_decoder(folder: Path) -> list[dict[str, Any]]:
    """Three tasks, of 6, 4 and 2 samples of each global batch, whose sources and targets are as long as none else's."""
    tokenizer = str(tokenizer_of_numbers(folder))
    return [
        {
            "name": "spans",
            "objective": {"name": "seq2seq", "mean_span_length": 2.0, "noise_density": 0.3},
            "data": {**WINDOWS, "tokenizer": tokenizer},
            "samples": 6,
            "weight": 0.5,
        },
        {
            "name": "answers",
            "objective": {"name": "seq2seq", "seq2seq": "pairs"},
            "data": {"train": [{"path": conversations(folder / "talks")}], "tokenizer": tokenizer},
            "samples": 4,
        },
        {
            "name": "repair",
            "objective": {"name": "seq2seq", "seq2seq": "denoising", "noise": ["infill", "permute", "delete"]},
            "data": {**WINDOWS, "tokenizer": tokenizer},
            "samples": 2,
            "weight": 2.0,
        },
    ]


def multitask(model: str, tasks: list[dict[str, Any]], /, **sections: Mapping[str, Any]) -> RunConfig:
    """Return the run of one of ``MODELS``, of 12 samples a step; sections are merged into the defaults."""
    tree: dict[str, dict[str, Any]] = {
        "model": {"num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, **MODELS[model]},
        "objective": {"name": "multitask", "tasks": tasks},
        "train": {"precision": "fp64", "global_batch_size": 12, "micro_batch_size": 3, "seq_length": 13},
        "optimizer": {"lr": 1e-2, "clip_grad_norm": 0.5},
    }
    for name, fields in sections.items():
        tree[name] = {**tree.get(name, {}), **fields}
    return validate(RunConfig, tree)
