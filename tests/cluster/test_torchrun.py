"""Oracle: the losses and the samples of each step of the same run, undisturbed, started on this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from megalm.run_config import RunConfig
from megalm.training.samples import FILE
from tests.cluster.conftest import skip_without
from tests.cluster.hosts import Host, Hosts
from tests.training.test_kills import ROOT, losses, start, steps_done
from tests.verify.runs import GPT2, RandomWindows, run_file

SLOW = "MEGALM_TEST_SLOW"
PAUSE_S = 0.05
STEPS = 90
EVERY = 5


class SlowWindows(RandomWindows):
    """Reading takes its time as long as a file is there, so that a run lasts while machines go and come."""

    def __getitem__(self, index: int, /) -> NDArray[np.int64]:
        if os.path.exists(os.environ.get(SLOW, "")):
            time.sleep(PAUSE_S)
        return super().__getitem__(index)


def slow_windows(seq_length: int, seed: int) -> SlowWindows:
    return SlowWindows(seq_length, seed)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    skip_without(["ip", "tc"], "iproute2")
    with Hosts(["h1", "h2"], rate="1gbit") as running:
        yield running


class Runs:
    """The commands of one run on several hosts.

    Args:
        folder: for the run file, the run directory and what the commands print.
        config: the run.
        nodes: ``--nnodes``.
    """

    def __init__(self, folder: Path, config: RunConfig, nodes: str) -> None:
        self.run_dir = folder / "run"
        self.undisturbed = folder / "undisturbed"
        self.path = folder / "run.yaml"
        self.path.write_text(config.to_yaml())
        self._folder, self._nodes = folder, nodes
        self.slow = folder / "slow"
        self.slow.touch()
        self._started: list[tuple[Host, subprocess.Popen[str]]] = []

    def __enter__(self) -> "Runs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing running for the next test."""
        for host, process in self._started:
            if process.poll() is None:
                host.power_off()
                host.boot()
                process.wait()

    def launch(self, host: Host) -> "subprocess.Popen[str]":
        words = [f"--nnodes={self._nodes}", "--nproc-per-node=1", "--rdzv-endpoint=h1:29400", f"run.dir={self.run_dir}"]
        command = [sys.executable, "-m", "megalm", "launch", "torchrun", str(self.path), *words]
        with self.screen(host).open("a") as screen:
            env = {**os.environ, SLOW: str(self.slow), "OMP_NUM_THREADS": "1"}
            process = host.start(*command, env=env, cwd=ROOT, stdout=screen, stderr=subprocess.STDOUT)
        self._started.append((host, process))
        return process

    def screen(self, host: Host) -> Path:
        """Return where a host's command prints to."""
        return self._folder / f"{host.name}.txt"

    def log(self) -> str:
        path = self.run_dir / "log.txt"
        return path.read_text() if path.exists() else ""

    def wait(self, what: Callable[[], bool], seconds: float, *running: "subprocess.Popen[str]") -> float:
        """Return after how many seconds something was so; the commands must run meanwhile."""
        began = time.monotonic()
        while not what():
            assert time.monotonic() < began + seconds, f"not within {seconds:g} s:\n{self._told()}"
            assert all(process.poll() is None for process in running), self._told()
            time.sleep(0.05)
        return time.monotonic() - began

    def _told(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self._folder.glob("h*.txt")))


def elastic_run() -> RunConfig:
    return run_file(
        GPT2,
        run={"elastic": True, "record_samples": True},
        layout={"dp": 2},
        zero={"stage": 2},
        data={"train": [{"path": "tests.cluster.test_torchrun:slow_windows"}]},
        train={"steps": STEPS, "micro_batch_size": 3, "eval_every": 0},
        checkpoint={"every": EVERY},
    )


def samples(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / FILE).read_text().splitlines()]


def compare(runs: Runs) -> None:
    """Hold each step's samples and loss against the undisturbed run's, and print them."""
    assert start(runs.path, runs.undisturbed).wait(timeout=120) == 0
    found, wanted = samples(runs.run_dir), samples(runs.undisturbed)
    for row, loss, other in zip(found, losses(runs.run_dir), losses(runs.undisturbed), strict=True):
        windows = [sample["window"] for sample in row["samples"]]
        print(f"step {row['step']}: windows {windows}, loss differs by {loss - other:+.1e}")
    assert found == wanted
    assert losses(runs.run_dir) == pytest.approx(losses(runs.undisturbed), abs=1e-10, rel=0)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))


def test_two_nodes(hosts: Hosts, tmp_path: Path) -> None:
    """Oracle: bit for bit."""
    train = {"precision": "fp32", "steps": 20, "micro_batch_size": 3, "eval_every": 0}
    config = run_file(GPT2, layout={"dp": 2}, train=train, checkpoint={"every": 0})
    with Runs(tmp_path, config, "2") as runs:
        first, second = runs.launch(hosts["h1"]), runs.launch(hosts["h2"])
        assert start(runs.path, runs.undisturbed).wait(timeout=120) == 0
        assert [first.wait(timeout=120), second.wait(timeout=120)] == [0, 0], runs.screen(hosts["h1"]).read_text()
        assert losses(runs.run_dir) == losses(runs.undisturbed)


def test_a_machine_goes_and_comes_back(hosts: Hosts, tmp_path: Path) -> None:
    """Nobody hears of its end, which must be noticed long before the time-out of 10 minutes; then it is told to go."""
    with Runs(tmp_path, elastic_run(), "1:2") as runs:
        first, second = runs.launch(hosts["h1"]), runs.launch(hosts["h2"])
        runs.wait(lambda: steps_done(runs.run_dir) > EVERY + 1, 120, first, second)
        before = steps_done(runs.run_dir)
        hosts["h2"].unplug()  # or its kernel would close the connections
        hosts["h2"].power_off()
        shrunk = runs.wait(lambda: steps_done(runs.run_dir) > before and "dp=1 of 2" in runs.log(), 120, first)
        assert second.wait(timeout=10)
        hosts["h2"].plug()
        hosts["h2"].boot()
        second = runs.launch(hosts["h2"])
        grown = runs.wait(lambda: "dp=2 of 2" in runs.log().rpartition("dp=1 of 2")[2], 120, first, second)
        print(f"at dp=1 after {shrunk:.1f} s, at dp=2 again {grown:.1f} s after the machine was back")
        assert hosts["h2"].run("pkill", "-TERM", "-f", "megalm launch torchrun").returncode == 0
        assert second.wait(timeout=120) == 75, runs.screen(hosts["h2"]).read_text()
        runs.slow.unlink()
        assert first.wait(timeout=120) == 0, runs.screen(hosts["h1"]).read_text()
        assert runs.log().count("elastic: dp=1 of 2") == 2
        compare(runs)


def test_without_the_place_where_they_meet_the_others_end(hosts: Hosts, tmp_path: Path) -> None:
    with Runs(tmp_path, elastic_run(), "1:2") as runs:
        first, second = runs.launch(hosts["h1"]), runs.launch(hosts["h2"])
        runs.wait(lambda: steps_done(runs.run_dir) > 1, 120, first, second)
        hosts["h1"].power_off()
        first.wait(timeout=10)
        hosts["h1"].boot()
        assert second.wait(timeout=120) == 1
        told = runs.screen(hosts["h2"]).read_text()
        assert "torchrun's nodes do not meet at h1:29400: the machine where the nodes meet is gone" in told
