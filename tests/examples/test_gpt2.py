"""Oracle: ln(vocabulary), the loss of a model that knows nothing; and the held-out loss of the run's beginning.

GPT-2's example and those of its relatives, which differ in family and layout.
"""

import argparse
import email
import json
import math
import os
from pathlib import Path

import pytest

from megalm.data.prepare import prepare
from tests.examples.runs import ROOT, megalm

FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
VOCAB_SIZE = 4096
SMALL = ("train.steps=10", "train.eval_every=3", "train.seq_length=64", "lr_schedule.warmup_steps=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a few files, or all of the standard library."""
    package = sorted(Path(email.__file__).parent.glob("*.py"))
    sources = ["python-stdlib"] if FULL else [argparse.__file__, *map(str, package)]
    made = tmp_path_factory.mktemp("data")
    prepare(sources, made, VOCAB_SIZE if FULL else 600, validation=0.02 if FULL else 0.1, overwrite=True)
    return made


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_it_learns(data: Path, tmp_path: Path, family: str) -> None:
    """Ten steps on a few files; the whole run on all of the standard library."""
    words = [f"run.dir={tmp_path}", f"data.train.0.path={data}", *(() if FULL else SMALL)]
    told = megalm("train", f"examples/{family}.yaml", *words)
    assert told.returncode == 0, told.stdout + told.stderr
    text = (ROOT / "examples" / f"{family}.yaml").read_text()
    assert f"megalm data prepare python-stdlib --output data/python-stdlib --vocab-size {VOCAB_SIZE}`" in text
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] == pytest.approx(math.log(VOCAB_SIZE), abs=0.5)
    held_out = [row["val_loss"] for row in rows if "val_loss" in row]
    print(f"{family}: held-out loss {held_out[0]:.4f} to {held_out[-1]:.4f}")
    assert held_out[-1] < held_out[0] - 0.1
