"""The examples, trained for a few steps on a few files, or as they stand on all of the standard library."""

import argparse
import email
import json
import logging
import os
import xml.dom
from pathlib import Path
from types import ModuleType
from typing import Any

from megalm.data.prepare import prepare
from tests.examples.runs import ROOT, megalm

FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
TEN_STEPS = ("train.steps=10", "train.eval_every=3", "lr_schedule.warmup_steps=0")
SMALL = (*TEN_STEPS, "train.seq_length=64")
TEXT = (email,)
RECORDS = (email, logging, xml.dom)
"""Packages with text enough, and with records enough."""


def prepared(folder: Path, packages: tuple[ModuleType, ...] = TEXT, vocab_size: int = 4096, **options: Any) -> Path:
    """Prepare the sources of some packages, or all, and return the folder.

    Args:
        folder: where to.
        packages: of the short form.
        vocab_size: of the whole form, if a tokenizer is learned.
        options: of ``prepare``.
    """
    modules = [path for package in packages for path in sorted(Path(str(package.__file__)).parent.glob("*.py"))]
    sources = ["python-stdlib"] if FULL else [argparse.__file__, *map(str, modules)]
    learned = () if "tokenizer" in options else (vocab_size if FULL else min(vocab_size, 600),)
    prepare(sources, folder, *learned, validation=0.02 if FULL else 0.1, **options)
    return folder


def trained(name: str, run_dir: Path, *data: str, small: tuple[str, ...] = SMALL) -> list[dict[str, Any]]:
    """Train an example and return its rows of metrics.

    Args:
        name: of its file.
        run_dir: where to.
        data: words that name its prepared data.
        small: what the short form changes.
    """
    words = ("train", f"examples/{name}.yaml", f"run.dir={run_dir}", *data, *(() if FULL else small))
    told = megalm(*words, timeout_s=1200 if FULL else 300)
    assert told.returncode == 0, told.stdout + told.stderr
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def header(name: str) -> str:
    """Return the text of an example, whose head says how its data are prepared."""
    return (ROOT / "examples" / f"{name}.yaml").read_text()


def ends_of(rows: list[dict[str, Any]], *keys: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first and the last evaluated row, and print what they say of some keys."""
    first, *_, last = [row for row in rows if "val_loss" in row]
    for key in keys:
        print(f"{key} {first[key]:.4f} to {last[key]:.4f}")
    return first, last
