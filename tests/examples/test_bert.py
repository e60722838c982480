"""Oracle: what a model that knows nothing loses; and the held-out loss of the run's beginning."""

import argparse
import email
import json
import math
import os
from pathlib import Path

from megalm.data.prepare import prepare
from tests.examples.runs import ROOT, megalm

FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
VOCAB_SIZE = 2048
SMALL = (
    *("train.steps=10", "train.eval_every=3", "train.global_batch_size=16", "train.micro_batch_size=8"),
    *("train.seq_length=64", "lr_schedule.warmup_steps=0"),
)


def test_it_learns(tmp_path: Path) -> None:
    """Ten steps on a few files; the whole run on all of the standard library."""
    package = sorted(Path(email.__file__).parent.glob("*.py"))
    sources = ["python-stdlib"] if FULL else [argparse.__file__, *map(str, package)]
    vocab_size, validation = (VOCAB_SIZE, 0.02) if FULL else (600, 0.1)
    prepare(sources, tmp_path / "data", vocab_size, validation=validation, special_tokens="bert")
    words = [f"run.dir={tmp_path / 'run'}", f"data.train.0.path={tmp_path / 'data'}", *(() if FULL else SMALL)]
    told = megalm("train", "examples/bert.yaml", *words)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "--special-tokens bert" in (ROOT / "examples" / "bert.yaml").read_text()

    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert abs(rows[0]["loss"] - math.log(VOCAB_SIZE) - math.log(2)) < 0.8
    held_out = [row["val_loss"] for row in rows if "val_loss" in row]
    print(f"held-out loss {held_out[0]:.4f} to {held_out[-1]:.4f}")
    assert held_out[-1] < held_out[0] - 0.1
