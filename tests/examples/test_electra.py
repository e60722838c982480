"""Oracle: what a model that knows nothing loses; and the held-out losses of the run's beginning."""

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
SMALL = ("train.steps=10", "train.eval_every=3", "lr_schedule.warmup_steps=0")


def test_it_learns(tmp_path: Path) -> None:
    """Ten steps on a few files; the whole run on all of the standard library."""
    package = sorted(Path(email.__file__).parent.glob("*.py"))
    sources = ["python-stdlib"] if FULL else [argparse.__file__, *map(str, package)]
    vocab_size, validation = (VOCAB_SIZE, 0.02) if FULL else (600, 0.1)
    prepare(sources, tmp_path / "data", vocab_size, validation=validation, special_tokens="bert")
    words = [f"run.dir={tmp_path / 'run'}", f"data.train.0.path={tmp_path / 'data'}", *(() if FULL else SMALL)]
    told = megalm("train", "examples/electra.yaml", *words)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "--special-tokens bert" in (ROOT / "examples" / "electra.yaml").read_text()

    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = rows[0]
    assert abs(first["loss_mlm"] - math.log(VOCAB_SIZE)) < 0.8
    assert abs(first["loss_rtd"] - math.log(2)) < 0.4
    assert all(math.isclose(row["loss"], row["loss_mlm"] + 50 * row["loss_rtd"], rel_tol=1e-5) for row in rows)
    held_out = [row for row in rows if "val_loss" in row]
    for key in ("val_loss", "val_loss_mlm", "val_loss_rtd", "val_f1"):
        print(f"{key} {held_out[0][key]:.4f} to {held_out[-1][key]:.4f}")
    assert held_out[-1]["val_loss_mlm"] < held_out[0]["val_loss_mlm"] - 0.1
    assert held_out[-1]["val_loss"] < held_out[0]["val_loss"] - 0.1
    if FULL:  # the generator deceives better and better, and yet the discriminator gains on it
        assert held_out[-1]["val_loss"] < held_out[0]["val_loss"] - 1.0
        assert held_out[-1]["val_f1"] > held_out[0]["val_f1"]
