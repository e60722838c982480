"""Oracle: what models that know nothing lose: ln(vocabulary) and ln(labels); and what the run's beginning found."""

import argparse
import email
import json
import logging
import math
import os
import xml.dom
from pathlib import Path

from megalm.data.prepare import prepare
from tests.examples.runs import ROOT, megalm

FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
SMALL = ("train.steps=10", "train.eval_every=3", "train.seq_length=64", "lr_schedule.warmup_steps=0")


def test_both_tasks_are_learned(tmp_path: Path) -> None:
    packages = [
        path for module in (email, logging, xml.dom) for path in sorted(Path(str(module.__file__)).parent.glob("*.py"))
    ]
    sources = ["python-stdlib"] if FULL else [argparse.__file__, *map(str, packages)]
    text, labelled, held_out = tmp_path / "text", tmp_path / "labelled", 0.02 if FULL else 0.1
    prepare(sources, text, 4096 if FULL else 600, validation=held_out)
    prepare(sources, labelled, tokenizer=text / "tokenizer.json", records="labelled", validation=held_out)
    words = [
        f"run.dir={tmp_path / 'run'}",
        f"objective.tasks.0.data.train.0.path={text}",
        f"objective.tasks.1.data.train.0.path={labelled}",
        *(() if FULL else SMALL),
    ]
    told = megalm("train", "examples/multitask.yaml", *words)
    assert told.returncode == 0, told.stdout + told.stderr
    example = (ROOT / "examples" / "multitask.yaml").read_text()
    assert example.count("--records labelled") == 1
    assert example.count("/tokenizer.json`") == 1

    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert abs(rows[0]["task/text/loss"] - math.log(4096)) < 0.5
    assert abs(rows[0]["task/package/loss"] - math.log(48)) < 0.7
    first, *_, last = [row for row in rows if "val_loss" in row]
    for name in ("text/val_loss", "package/val_loss", "package/val_accuracy", "package/val_f1"):
        print(f"{name} {first[f'task/{name}']:.4f} to {last[f'task/{name}']:.4f}")
    assert last["task/text/val_loss"] < first["task/text/val_loss"] - 0.1
    assert last["task/package/val_loss"] < first["task/package/val_loss"] - 0.05
    assert last["task/package/val_accuracy"] >= first["task/package/val_accuracy"]
