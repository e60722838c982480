"""Oracle: the loss column of an uninterrupted run, bit for bit, after `kill -9` of ranks and launchers."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megalm.training import metrics
from tests.verify.runs import GPT2, run_file

ROOT = Path(__file__).parents[2]
KILLS = 10 if os.environ.get("MEGALM_TEST_FULL") else 3
STEPS = 120
LAST_KILL = 90
"""No kill is planned after this step: a busy machine may look a while later."""


def start(run_file_path: Path, run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "megalm", "train", str(run_file_path), f"run.dir={run_dir}"]
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Write the run file, and run it undisturbed."""
    folder = tmp_path_factory.mktemp("kills")
    config = run_file(
        GPT2,
        layout={"dp": 2},
        train={"precision": "fp32", "steps": STEPS, "micro_batch_size": 3, "eval_every": 0},
        checkpoint={"every": 5},
    )
    (folder / "run.yaml").write_text(config.to_yaml())
    assert start(folder / "run.yaml", folder / "undisturbed").wait(timeout=120) == 0
    return folder / "run.yaml", losses(folder / "undisturbed")


def test_kills_lose_nothing(run: tuple[Path, list[float]], tmp_path: Path) -> None:
    path, undisturbed = run
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for kill in range(KILLS):
        before = steps_done(tmp_path)
        launcher = start(path, tmp_path)
        target = min(before + chance.randint(1, STEPS // KILLS), LAST_KILL)
        while steps_done(tmp_path) < target and launcher.poll() is None:
            time.sleep(0.002)
        running = processes_of(tmp_path)
        ranks = [pid for pid, parent in running.items() if parent == launcher.pid]
        assert len(ranks) == 2, f"kill {kill} came too late: {running}"
        os.kill(chance.choice([launcher.pid, *ranks]), signal.SIGKILL)
        assert launcher.wait(timeout=10) != 0
        wait_until_gone(tmp_path, 10)
    assert start(path, tmp_path).wait(timeout=120) == 0
    assert losses(tmp_path) == undisturbed
    assert [row["step"] for row in metrics.rows(tmp_path / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert start(path, tmp_path).wait(timeout=60) == 0
