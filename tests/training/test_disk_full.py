"""Oracle: the loss column of an undisturbed run, after a disk that was full in the middle of ``megalm train``."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megalm.training import metrics
from tests.reference import Reference
from tests.small_disk import fill, small_disk
from tests.training.test_kills import ROOT, losses, steps_done

STEPS = 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Two checkpoints of the run fit, and little more."""
    with small_disk(tmp_path / "disk", mib=4) as folder:
        yield folder


def train(run: Reference, run_dir: Path) -> "subprocess.Popen[str]":
    command = run.train(run_dir)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_disk_that_fills_while_training_is_one_sentence_and_loses_nothing(disk: Path, tmp_path: Path) -> None:
    undisturbed = Reference.make(tmp_path, STEPS, seconds=120, layout={"dp": 2}, checkpoint={"every": 2, "async": True})
    run_dir = disk / "run"
    first = train(undisturbed, run_dir)
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
    second = train(undisturbed, run_dir)
    _, told = second.communicate(timeout=120)
    assert (second.returncode, told) == (0, "")
    assert "resumed from step" in (run_dir / "log.txt").read_text()
    assert losses(run_dir) == undisturbed.losses
    assert [row["step"] for row in metrics.rows(run_dir / "metrics.jsonl")] == list(range(1, STEPS + 1))
