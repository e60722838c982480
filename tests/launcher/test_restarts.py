"""Oracle: what attempts with known ends are followed by; the loss column of an undisturbed run, bit for bit."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.launcher import restarts
from megalm.launcher.conclusion import Outcome
from megalm.launcher.restarts import run_again
from megalm.training import metrics
from megalm.training.config import RunSection
from tests.reference import Reference
from tests.small_disk import fill, small_disk
from tests.training.test_kills import ROOT, losses, processes_of, steps_done

STEPS = 40
KILLED = "rank 1 (process 7) was ended by SIGKILL; the other ranks were ended too."


class Run:
    """A run whose attempts end as told: each is what it returns or raises, after what it leaves behind."""

    def __init__(self, folder: Path, *attempts: Outcome | UserError) -> None:
        self.folder = folder
        self.left = list(attempts)
        self.leaves: list[Callable[[], object]] = []
        self.more: list[Sequence[str]] = []

    def attempt(self, more: Sequence[str]) -> Outcome:
        self.more.append(more)
        if self.leaves:
            self.leaves.pop(0)()
        end = self.left.pop(0)
        if isinstance(end, UserError):
            raise end
        return end

    def go(self, max_restarts: int) -> int:
        return run_again(self.attempt, RunSection(dir=str(self.folder), max_restarts=max_restarts))

    def trains(self) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write("{}\n")

    def saves(self, step: int) -> None:
        self.trains()
        folder = self.folder / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "complete").touch()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "FIRST_PAUSE_S", 0.01)


def test_a_run_that_failed_is_started_again_so_often_and_not_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, *[Outcome(1, KILLED)] * 3)
    assert run.go(2) == 1
    assert (run.left, len(run.more)) == ([], 3)
    assert (tmp_path / "log.txt").read_text().splitlines() == [
        f"restart 1 of 2 in 0.01 s, from where it began: {KILLED}",
        f"restart 2 of 2 in 0.02 s, from where it began: {KILLED}",
    ]
    assert capsys.readouterr().err.count(f"megalm: {KILLED}\n") == 3


@pytest.mark.parametrize(
    "end",
    [
        Outcome(0),
        Outcome(75),
        Outcome(2, "the corpus is empty; name another."),
        UserError("the layout needs 4 ranks; start fewer."),
        Outcome(130, "interrupted.", asked_to_end=True),
        Outcome(1, KILLED, asked_to_end=True),
    ],
)
def test_what_would_end_alike_or_was_asked_to_end_is_not_started_again(
    tmp_path: Path, end: Outcome | UserError
) -> None:
    run = Run(tmp_path, end)
    assert run.go(5) == (2 if isinstance(end, UserError) else end.code)
    assert run.left == []


def test_a_refusal_is_the_machines_once_the_run_has_trained(tmp_path: Path) -> None:
    full, away = Outcome(2, "cannot write log.txt (No space left on device)."), UserError("h2 cannot be reached.")
    run = Run(tmp_path, full, away, full, Outcome(0))
    run.leaves = [run.trains]
    assert run.go(5) == 0
    assert [line.partition(",")[0] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "restart 1 of 5 in 0.01 s",
        "restart 2 of 5 in 0.02 s",
        "restart 3 of 5 in 0.04 s",
    ]


def test_it_goes_on_from_its_own_checkpoint_whatever_it_began_from(tmp_path: Path) -> None:
    """A run with checkpoint.resume=never, in the directory of an older one, which must not go on from that."""
    run = Run(tmp_path, Outcome(1, KILLED), Outcome(1, KILLED), Outcome(1, KILLED), Outcome(0))
    run.saves(90)
    run.leaves = [run.trains, lambda: run.saves(10), run.trains]
    assert run.go(5) == 0
    own = ("checkpoint.resume=auto",)
    assert run.more == [(), (), own, own]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGINT, 130), (signal.SIGUSR2, 140)])
def test_a_signal_in_the_pause_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.setattr(restarts, "FIRST_PAUSE_S", 30.0)
    run = Run(tmp_path, Outcome(1, KILLED))
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
    began = time.monotonic()
    assert run.go(5) == code
    assert time.monotonic() - began < 25


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mib=4) as folder:
        yield folder


def test_a_killed_rank_and_a_full_disk_are_survived(disk: Path, tmp_path: Path) -> None:
    undisturbed = Reference.make(tmp_path, STEPS, seconds=120, layout={"dp": 2}, checkpoint={"every": 2, "async": True})
    run_dir = disk / "run"
    command = undisturbed.train(run_dir, "run.max_restarts=9")
    with (tmp_path / "told").open("w") as told:
        launcher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=told)

    def wait_until(done: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while launcher.poll() is None and not done():
            assert time.monotonic() < end
            time.sleep(0.005)

    wait_until(lambda: steps_done(run_dir) >= 5)
    victim = max(pid for pid, parent in processes_of(run_dir).items() if parent == launcher.pid)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: steps_done(run_dir) >= 15)
    filler = fill(disk)
    wait_until(lambda: "restart 2 of 9" in (tmp_path / "told").read_text())
    filler.unlink()
    assert launcher.wait(timeout=120) == 0, (tmp_path / "told").read_text()
    assert f"(process {victim}) was ended by SIGKILL" in (run_dir / "log.txt").read_text()
    assert losses(run_dir) == undisturbed.losses
    assert [row["step"] for row in metrics.rows(run_dir / "metrics.jsonl")] == list(range(1, STEPS + 1))
