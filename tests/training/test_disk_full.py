"""Oracle: the loss column of an undisturbed run, after a disk that was full in the middle of ``megalm train``."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megalm.training import metrics
from tests.small_disk import fill, small_disk
from tests.training.test_kills import ROOT, losses, steps_done
from tests.verify.runs import GPT2, run_file

STEPS = 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Two checkpoints of the run fit, and little more."""
    with small_disk(tmp_path / "disk", mib=4) as folder:
        yield folder


def train(path: Path, run_dir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "megalm", "train", str(path), f"run.dir={run_dir}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_disk_that_fills_while_training_is_one_sentence_and_loses_nothing(disk: Path, tmp_path: Path) -> None:
    config = run_file(
        GPT2,
        layout={"dp": 2},
        train={"precision": "fp32", "steps": STEPS, "micro_batch_size": 3, "eval_every": 0},
        checkpoint={"every": 2, "async": True},
    )
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml())
    undisturbed = train(path, tmp_path / "undisturbed")
    undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0

    run_dir = disk / "run"
    first = train(path, run_dir)
    while steps_done(run_dir) < 5 and first.poll() is None:
        time.sleep(0.002)
    filler = fill(disk)
    _, told = first.communicate(timeout=120)
    assert first.returncode == 2, told
    (sentence,) = told.splitlines()
    assert sentence.startswith("megalm: ")
    assert "No space left on device" in sentence
    assert list((run_dir / "checkpoints").glob("step-*"))

    filler.unlink()
    second = train(path, run_dir)
    _, told = second.communicate(timeout=120)
    assert (second.returncode, told) == (0, "")
    assert "resumed from step" in (run_dir / "log.txt").read_text()
    assert losses(run_dir) == losses(tmp_path / "undisturbed")
    assert [row["step"] for row in metrics.rows(run_dir / "metrics.jsonl")] == list(range(1, STEPS + 1))
