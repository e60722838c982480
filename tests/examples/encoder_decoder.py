"""The examples of encoder-decoders, trained for ten steps on a few files, or as they stand on all."""

import argparse
import email
import json
import math
import os
from pathlib import Path

from megalm.data.prepare import prepare
from tests.examples.runs import ROOT, megalm

FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
SMALL = ("train.steps=10", "train.eval_every=3", "train.seq_length=64", "lr_schedule.warmup_steps=0")


def assert_it_learns(folder: Path, family: str) -> None:
    package = sorted(Path(email.__file__).parent.glob("*.py"))
    sources = ["python-stdlib"] if FULL else [argparse.__file__, *map(str, package)]
    data = folder / "data"
    prepare(sources, data, 4096 if FULL else 600, special_tokens=family, validation=0.02 if FULL else 0.1)
    assert f"--special-tokens {family}`" in (ROOT / "examples" / f"{family}.yaml").read_text()
    overrides = (f"run.dir={folder / 'run'}", f"data.train.0.path={data}", *(() if FULL else SMALL))
    told = megalm("train", f"examples/{family}.yaml", *overrides)
    assert told.returncode == 0, told.stdout + told.stderr
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    held_out = [row["val_loss"] for row in rows if "val_loss" in row]
    print(f"{family}: held-out loss {held_out[0]:.4f} to {held_out[-1]:.4f}")
    assert math.log(4096) - 0.5 < rows[0]["loss"] < math.log(4096) + 2
    assert held_out[-1] < held_out[0] - 0.1
