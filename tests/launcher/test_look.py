"""Oracle: the rank that was stopped, killed, put to sleep or made to err, and what its neighbours need of it.

All runs of this file go at the same time: most of it is waiting.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from megalm.launcher.look import FILE
from megalm.watch.place import read_positions
from megalm.watch.position import Position, expand
from tests.training.test_kills import ROOT, processes_of, steps_done, wait_until_gone
from tests.verify.runs import GPT2, run_file

TIMEOUT_S = 12
ENDED_WITHIN_S = TIMEOUT_S + 15
STEPS_BEFORE = 3
FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
BATCH = 4
"""Samples of a step: with two data ranks each reads two."""


@dataclass
class Case:
    """A run that goes wrong.

    Args:
        layout: with which it starts, and further sections.
        rank: with which rank something is wrong.
        fault: a signal, or a function of ``faulty``.
    """

    layout: dict[str, int]
    rank: int
    fault: signal.Signals | str
    zero_stage: int = 0

    def start(self, folder: Path) -> None:
        """Write the run file and start the run."""
        self.run_dir = folder / "run"
        source = self.fault if isinstance(self.fault, str) else "healthy"
        config = run_file(
            GPT2,
            layout=self.layout,
            zero={"stage": self.zero_stage},
            run={"timeout": TIMEOUT_S},
            data={"train": [{"path": f"tests.launcher.faulty:{source}"}]},
            train={
                **{"precision": "fp32", "steps": 100_000, "eval_every": 0},
                **{"global_batch_size": BATCH, "micro_batch_size": 1},
            },
            checkpoint={"every": 0},
        )
        (folder / "run.yaml").write_text(config.to_yaml())
        command = [sys.executable, "-m", "megalm", "train", str(folder / "run.yaml"), f"run.dir={self.run_dir}"]
        with (folder / "err").open("w") as err:
            self.launcher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=err)
        self.err = folder / "err"

    def strike(self) -> None:
        """Send the signal, if it is one, when the run has begun to train."""
        if isinstance(self.fault, str):
            return
        deadline = time.monotonic() + 300
        while self.launcher.poll() is None and steps_done(self.run_dir) <= STEPS_BEFORE:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.before = read_positions(self.run_dir)[self.rank]
        os.kill(self.before.pid, self.fault)
        self.struck_s = time.monotonic()

    def end(self) -> str:
        """Wait, and return the screen; all processes are gone, and in time."""
        since = getattr(self, "struck_s", time.monotonic())
        assert self.launcher.wait(timeout=300) == 1
        assert time.monotonic() - since < ENDED_WITHIN_S or isinstance(self.fault, str)
        wait_until_gone(self.run_dir, 2)
        told = self.err.read_text()
        assert told.endswith(f"megalm: {(self.run_dir / FILE).read_text()}"), told
        return told

    def position(self) -> Position:
        """Return where the rank was last."""
        return read_positions(self.run_dir)[self.rank]


CASES = {
    "stopped, dp=2 tp=2": Case({"dp": 2, "tp": 2}, 3, signal.SIGSTOP),
    "stopped, zero 3": Case({"dp": 2}, 0, signal.SIGSTOP, zero_stage=3),
    "asleep": Case({"dp": 2}, 1, "asleep"),
    "out of step": Case({"dp": 2}, 1, "out_of_step"),
}
if FULL:  # no more at a time: each rank takes a third of a gigabyte
    CASES |= {
        "stopped, pp=2 dp=2, rank 0": Case({"pp": 2, "dp": 2}, 0, signal.SIGSTOP),
        "stopped, pp=2 dp=2, rank 3": Case({"pp": 2, "dp": 2}, 3, signal.SIGSTOP),
        "stopped, dp=2 tp=2, rank 0": Case({"dp": 2, "tp": 2}, 0, signal.SIGSTOP),
        "stopped, zero 3, rank 2": Case({"dp": 4}, 2, signal.SIGSTOP, zero_stage=3),
    }


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    started: list[Case] = []
    try:
        for case in CASES.values():
            case.start(tmp_path_factory.mktemp("run"))
            started.append(case)
        for case in CASES.values():
            case.strike()
        yield CASES
    finally:
        for case in started:
            for pid in processes_of(case.run_dir):  # of a test that failed
                os.kill(pid, signal.SIGKILL)
            case.launcher.wait()


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("stopped")])
def test_a_stopped_rank_is_named_with_its_place_and_what_the_others_wait_in(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    told, before = case.end(), case.before
    assert f"rank {case.rank} (process {before.pid} on {before.host}) is stopped" in told
    place = " ".join(f"{axis}={at}" for axis, at in before.coordinates.items())
    doing = rf"rank {case.rank} is {place}, on {before.host}, process {before.pid}, in step \d+, .+ for \d+ s"
    assert re.search(doing, told), told
    waits = re.findall(
        r"(?m)^  rank (\S+) \(step (\d+), .*\) waits in (\S+) \d+ over .*, [\d.]+ K?i?B, for rank (\S+)$", told
    )
    assert waits, told
    assert any(case.rank in expand(on) for _, _, _, on in waits), told
    waiting = {rank for ranks, _, _, _ in waits for rank in expand(ranks)}
    assert waiting >= set(range(before.world_size)) - {case.rank}
    at_last = case.position().step
    assert all(abs(int(step) - at_last) <= 1 for _, step, _, _ in waits)
    assert "Traceback" not in told


def test_a_rank_that_is_asleep_is_busy(cases: dict[str, Case]) -> None:
    told = cases["asleep"].end()
    assert re.search(
        r"rank 1 \(process \d+ on .*\) is busy in step 4, reading data for \d+ s, and the others wait", told
    )
    assert re.search(
        r"rank 0 \(step 4, reading data\) waits in all_reduce \d+ over dp_cp \(ranks 0-1\), 8 B, for rank 1", told
    )
    assert "last lines of rank 1:\n  | reading from a disk that is gone\n" in told
    assert "Traceback" not in told


def test_ranks_that_are_out_of_step_are_both_named(cases: dict[str, Case]) -> None:
    told = cases["out of step"].end()
    one = r"rank 0 \(process \d+ on .*\) is in all_reduce (\d+) over world \(ranks 0-1\), 8 B"
    other = r"rank 1 \(process \d+ on .*\) is in all_reduce (\d+) over dp_cp \(ranks 0-1\), (?:8|512) B"
    found = re.search(rf"the ranks are out of step: {one} .*, but {other} ", told)
    assert found is not None, told
    assert found[1] == found[2]
