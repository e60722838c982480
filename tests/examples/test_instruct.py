"""Oracle: ln(vocabulary), the loss of a model that knows nothing; and the held-out loss of the run's beginning."""

import argparse
import email
import json
import logging
import math
import os
import xml.dom
from pathlib import Path
from typing import Any

from megalm.data.prepare import prepare
from tests.examples.runs import ROOT, megalm

FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
SMALL = ("train.steps=10", "train.eval_every=3", "train.seq_length=128", "lr_schedule.warmup_steps=0")


def run(tmp_path: Path, name: str, kind: Any, *small: str) -> list[dict[str, Any]]:
    """Train an example for ten steps on a few files, or as it stands on all; return its rows of metrics."""
    packages = [
        path for module in (email, logging, xml.dom) for path in sorted(Path(str(module.__file__)).parent.glob("*.py"))
    ]
    sources = ["python-stdlib"] if FULL else [argparse.__file__, *map(str, packages)]
    prepare(sources, tmp_path / "data", 4096 if FULL else 600, records=kind, validation=0.02 if FULL else 0.1)
    words = [f"run.dir={tmp_path / 'run'}", f"data.train.0.path={tmp_path / 'data'}", *(() if FULL else small)]
    told = megalm("train", f"examples/{name}.yaml", *words)
    assert told.returncode == 0, told.stdout + told.stderr
    assert (ROOT / "examples" / f"{name}.yaml").read_text().count(f"--records {kind}") == 1
    return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]


def test_it_learns(tmp_path: Path) -> None:
    rows = run(tmp_path, "instruct", "instruct", *SMALL)
    assert abs(rows[0]["loss"] - math.log(4096)) < 0.5
    held_out = [row["val_loss"] for row in rows if "val_loss" in row]
    print(f"held-out loss {held_out[0]:.4f} to {held_out[-1]:.4f}")
    assert held_out[-1] < held_out[0] - 0.1
