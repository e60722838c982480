"""Oracle: the loss column of the same run, started by megalm's own launcher on this machine, bit for bit."""

import time
from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm
from tests.reference import Reference
from tests.training.test_kills import ROOT, losses, steps_done

STEPS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference.make(tmp_path_factory.mktemp("srun"), STEPS, seconds=120, run={"timeout": 60})


def test_tasks_on_two_nodes_take_their_places(slurm: Slurm, run: Reference, tmp_path: Path) -> None:
    step = ("srun", "--nodes=2", "--ntasks-per-node=2", "--kill-on-bad-exit=1")
    done = slurm.controller.run(*step, *run.train(tmp_path), cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path) == run.losses


def test_a_step_that_is_signalled_saves_and_the_next_goes_on(slurm: Slurm, run: Reference, tmp_path: Path) -> None:
    """Oracle: the undisturbed run; Slurm hands the signal to every task."""
    step = ("srun", "--nodes=2", "--ntasks-per-node=2")
    log = (tmp_path / "srun.log").open("w")
    first = slurm.controller.start(*step, *run.train(tmp_path), cwd=ROOT, stdout=log, stderr=log)
    while steps_done(tmp_path) < 5 and first.poll() is None:
        time.sleep(0.01)
    assert slurm.controller.run("scancel", "--user=root", "--signal=USR1").returncode == 0
    assert first.wait(timeout=60) == 75, (tmp_path / "srun.log").read_text()
    log.close()
    done = steps_done(tmp_path)
    assert 5 <= done < STEPS
    assert f"SIGUSR1: saved after step {done} of {STEPS}" in (tmp_path / "log.txt").read_text()
    second = slurm.controller.run(*step, *run.train(tmp_path), cwd=ROOT, timeout=120)
    assert second.returncode == 0, second.stdout + second.stderr
    assert losses(tmp_path) == run.losses


def test_a_step_saves_before_its_time_is_over(slurm: Slurm, run: Reference, tmp_path: Path) -> None:
    """Oracle: Slurm's clock: it would end the job after a minute, and the run is to be saved 48 s before that."""
    step = ("srun", "--nodes=1", "--ntasks-per-node=4", "--time=1")
    began = time.monotonic()
    command = run.train(tmp_path, "train.steps=100000", "checkpoint.before_limit=48", "checkpoint.every=0")
    done = slurm.controller.run(*step, *command, cwd=ROOT, timeout=120)
    assert done.returncode == 75, done.stdout + done.stderr
    assert 11 <= time.monotonic() - began < 55
    assert "the job's time limit: " in (tmp_path / "log.txt").read_text()
