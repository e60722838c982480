"""Oracle: the losses and checkpoints of an uninterrupted run, bit for bit, after `kill -9` of ranks and launchers."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megalm.checkpoint.checkpoint import Checkpoint
from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import CheckpointStore, open_checkpoint
from megalm.mesh import Axis
from megalm.training import metrics
from tests.verify.runs import GPT2, run_file

ROOT = Path(__file__).parents[2]
KILLS = 10 if os.environ.get("MEGALM_TEST_FULL") else 3
STEPS = 60
LAST_KILL = 45
"""No kill is planned after this step: a busy machine may look a while later."""
LONGEST_SAVE_S = 0.1
"""A kill comes at most so long after the beginning of a save was seen."""


def start(run_file_path: Path, run_dir: Path, *overrides: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "megalm", "train", str(run_file_path), f"run.dir={run_dir}", *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes_of(run_dir: Path) -> dict[int, int]:
    """Return pid -> parent of every process whose command line names the run directory."""
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            state, parent = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if folder.name.isdigit() and state != "Z" and f"run.dir={run_dir}".encode() in words:
            found[int(folder.name)] = int(parent)
    return found


def steps_done(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return len(metrics.rows(path)) if path.exists() else 0


def wait_until_gone(run_dir: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while processes_of(run_dir) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_of(run_dir) == {}


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in metrics.rows(run_dir / "metrics.jsonl")]


def saves_begun(run_dir: Path) -> dict[str, int]:
    """Return name and step of each save that has begun and is not complete."""
    return {folder.name: int(folder.name.split("-")[1]) for folder in (run_dir / "checkpoints").glob("saving-*")}


def completed_steps(run_dir: Path) -> list[int]:
    return [int(mark.parent.name.split("-")[1]) for mark in (run_dir / "checkpoints").glob("step-*/complete")]


def newest_of(run_dir: Path) -> Checkpoint | None:
    warnings: list[str] = []
    found = CheckpointStore(run_dir / "checkpoints", world=Axis.alone(), keep=1, warn=warnings.append).newest()
    assert all("complete is missing" in warning for warning in warnings)
    return found


def values_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    found = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in checkpoint.names().items()}
    checkpoint.load({name: Piece.whole(tensor) for name, tensor in found.items()})
    return found


def check_values(checkpoint: Checkpoint, undisturbed: Path) -> None:
    """Compare a checkpoint with that of the same step of the undisturbed run."""
    found = values_of(checkpoint)
    wanted = values_of(open_checkpoint(undisturbed / "checkpoints" / f"step-{checkpoint.step:08d}", Axis.alone()))
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)] == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write the run file, and run it undisturbed; its large table gives each save something to do."""
    folder = tmp_path_factory.mktemp("kills")
    config = run_file(
        GPT2,
        model={"vocab_size": 16384},
        layout={"dp": 2},
        zero={"stage": 3},
        train={"precision": "fp32", "steps": STEPS, "micro_batch_size": 3, "eval_every": 0},
        checkpoint={"every": 3, "async": True},
    )
    (folder / "run.yaml").write_text(config.to_yaml())
    undisturbed = folder / "undisturbed"
    assert start(folder / "run.yaml", undisturbed, "checkpoint.keep=1000").wait(timeout=120) == 0
    return folder / "run.yaml", undisturbed


def test_kills_during_saves_lose_nothing(run: tuple[Path, Path], tmp_path: Path) -> None:
    """All processes are killed at once, or one of them, after which the others may still bring the save to its end."""
    path, undisturbed = run
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    cut_off = 0
    for kill in range(KILLS):
        target = min(steps_done(tmp_path) + chance.randint(1, STEPS // KILLS), LAST_KILL)
        torn = saves_begun(tmp_path).keys()
        launcher = start(path, tmp_path)
        while launcher.poll() is None and (steps_done(tmp_path) < target or saves_begun(tmp_path).keys() <= torn):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, LONGEST_SAVE_S))
        running = processes_of(tmp_path)
        ranks = sorted(pid for pid, parent in running.items() if parent == launcher.pid)
        assert len(ranks) == 2, f"kill {kill} came too late: {running}"
        completed = completed_steps(tmp_path)
        saving = [step for name, step in saves_begun(tmp_path).items() if name not in torn]
        for pid in ([*ranks, launcher.pid], [ranks[0]], [launcher.pid], [ranks[1]])[kill % 4]:
            os.kill(pid, signal.SIGKILL)
        assert launcher.wait(timeout=10) != 0
        wait_until_gone(tmp_path, 10)
        newest = newest_of(tmp_path)
        assert (newest.step if newest else 0) >= max(completed, default=0)
        if newest is not None:
            check_values(newest, undisturbed)
        cut_off += max(saving, default=0) > (newest.step if newest else 0)
    print(f"{cut_off} of {KILLS} saves were cut off")
    assert cut_off
    assert start(path, tmp_path).wait(timeout=120) == 0
    assert losses(tmp_path) == losses(undisturbed)
    assert [row["step"] for row in metrics.rows(tmp_path / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert start(path, tmp_path).wait(timeout=60) == 0
