"""Oracle: the loss column of an uninterrupted run, bit for bit, after signals and time limits; the wall clock."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from megalm.training import metrics
from tests.training.test_kills import ROOT, losses, processes_of, steps_done, wait_until_gone
from tests.verify.runs import GPT2, run_file

STEPS = 60


def start(path: Path, run_dir: Path, env: Mapping[str, str] | None = None, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "megalm", "train", str(path), f"run.dir={run_dir}", *overrides]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=-1, stderr=-2, text=True)


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code, and what was said."""
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Write the run file, and run it undisturbed."""
    folder = tmp_path_factory.mktemp("preemption")
    config = run_file(
        GPT2,
        layout={"dp": 2},
        train={"precision": "fp32", "steps": STEPS, "micro_batch_size": 3, "eval_every": 0},
        checkpoint={"every": 7},
    )
    (folder / "run.yaml").write_text(config.to_yaml())
    assert end_of(start(folder / "run.yaml", folder / "undisturbed"))[0] == 0
    return folder / "run.yaml", losses(folder / "undisturbed")


def saved_steps(run_dir: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run_dir / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("asked", ["launcher by SIGTERM", "one rank by SIGUSR1", "launcher twice"])
def test_a_run_that_is_asked_to_end_saves(run: tuple[Path, list[float]], tmp_path: Path, asked: str) -> None:
    path, undisturbed = run
    process = start(path, tmp_path)
    while steps_done(tmp_path) < 10 and process.poll() is None:
        time.sleep(0.002)
    rank = next(pid for pid, parent in processes_of(tmp_path).items() if parent == process.pid)
    for _ in range(2 if asked == "launcher twice" else 1):
        os.kill(rank if asked.startswith("one rank") else process.pid, _signal(asked))
    code, output = end_of(process)
    assert code == 75, output
    wait_until_gone(tmp_path, 5)
    done = steps_done(tmp_path)
    assert 10 <= done < STEPS, "it came too late"
    assert saved_steps(tmp_path)[-1] == done
    assert f"{_signal(asked).name}: saved after step {done} of {STEPS}" in output
    assert end_of(start(path, tmp_path))[0] == 0
    assert losses(tmp_path) == undisturbed
    assert [row["step"] for row in metrics.rows(tmp_path / "metrics.jsonl")] == list(range(1, STEPS + 1))


def _signal(asked: str) -> signal.Signals:
    return signal.SIGUSR1 if asked.endswith("SIGUSR1") else signal.SIGTERM


def test_a_run_saves_before_the_time_of_its_job_ends(run: tuple[Path, list[float]], tmp_path: Path) -> None:
    """Oracle: the job ends in 1000 s, and the run must be saved 1000 s before: now, when nothing is to be saved."""
    path, _ = run
    env = {"SLURM_JOB_END_TIME": str(int(time.time()) + 1000)}
    code, output = end_of(start(path, tmp_path, env, "checkpoint.before_limit=2000"))
    assert code == 75
    assert "the job's time limit: nothing to save yet" in output
    assert steps_done(tmp_path) == 0
