"""Oracle: the loss column of the same run, undisturbed, by megalm's own launcher on this machine, bit for bit."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megalm.launcher.templates import template
from tests.cluster.conftest import PAIR_STEPS, STEPS
from tests.cluster.slurm import Slurm
from tests.reference import Reference
from tests.training.test_kills import ROOT, completed_steps, losses, steps_done

FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
NODES = ("--nodes", "2", "--ntasks-per-node", "2", "--time", "10")
PAIR = ("--nodes", "2", "--ntasks-per-node", "1", "--time", "10")


def megalm(slurm: Slurm, *words: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    there = ("env", "-C", str(cwd), sys.executable, "-m", "megalm")
    return slurm.controller.run(*there, *map(str, words), env=env, timeout=180)


def launch(slurm: Slurm, path: Path, run_dir: Path, *words: str) -> str:
    """Launch a run and return the id of its job."""
    done = megalm(slurm, "launch", "slurm", path, *words, f"run.dir={run_dir}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def log_of(run_dir: Path) -> str:
    return "".join(path.read_text() for path in sorted(run_dir.glob("slurm-*.log")))


def wait_for_step(run_dir: Path, step: int) -> None:
    end = time.monotonic() + 120
    while steps_done(run_dir) < step:
        assert time.monotonic() < end, log_of(run_dir)
        time.sleep(0.01)


def test_a_job_of_tasks_with_gpus_trains_as_here(slurm: Slurm, reference: Reference, tmp_path: Path) -> None:
    """Oracle: also Slurm's variable that names a job's GPUs, which a site's own template prints."""
    path, here = reference
    own = tmp_path / "own.sbatch"
    own.write_text(
        template("slurm.sbatch").replace("\njob=$SLURM", '\necho "GPUs: $CUDA_VISIBLE_DEVICES"\njob=$SLURM', 1)
    )
    run_dir = tmp_path / "run"
    job = launch(slurm, path, run_dir, "--nodes", "2", "--gpus-per-node", "2", "--time", "10", "--template", str(own))
    assert slurm.wait_for(job, ENDED, 120) == "COMPLETED", log_of(run_dir)
    assert losses(run_dir) == here
    assert "GPUs: 0,1\n" in log_of(run_dir)
    assert json.loads((run_dir / "job.json").read_text()) == {
        "launcher": "slurm",
        "id": job,
        "host": "h0",
        "log": f"slurm-{job}.log",
    }
    told = megalm(slurm, "status", run_dir).stdout
    assert f"job {job} of Slurm, submitted on h0\nended with exit code 0: complete; Slurm says COMPLETED" in told
    assert f"newest checkpoint: step {STEPS}" in told
    logs = megalm(slurm, "logs", "--follow", "--lines", "1", run_dir).stdout
    assert logs == log_of(run_dir).splitlines()[-1] + "\n"


@pytest.mark.parametrize("style", ["torchrun", *(["tasks"] if FULL else [])])
def test_a_job_that_is_preempted_goes_on(slurm: Slurm, reference: Reference, tmp_path: Path, style: str) -> None:
    """Both styles are asked to save: that of tasks in the test of ``megalm stop``."""
    path, here = reference
    job = launch(slurm, path, tmp_path, *NODES, "--style", style)
    wait_for_step(tmp_path, 8)
    for _ in range(2):  # as Slurm does near the end of the time; again while it saves
        assert slurm.controller.run("scancel", "--signal=USR1", "--batch", job).returncode == 0
        time.sleep(0.2)
    slurm.wait_for(job, {"PENDING"}, 60)
    slurm.controller.run("scontrol", "hold", job)
    saved = steps_done(tmp_path)
    assert 8 <= saved < STEPS
    assert f"SIGUSR1: saved after step {saved} of {STEPS}" in log_of(tmp_path).replace(" to the launcher", "")
    assert megalm(slurm, "status", tmp_path).stdout.splitlines()[1] == "pending (JobHeldAdmin)"
    slurm.controller.run("scontrol", "release", job)
    assert slurm.wait_for(job, ENDED, 120) == "COMPLETED", log_of(tmp_path)
    assert f"resumed from step {saved}" in log_of(tmp_path)
    assert losses(tmp_path) == here


def test_a_job_outlives_its_nodes(slurm: Slurm, pair: Reference, tmp_path: Path) -> None:
    """Oracle: the undisturbed run; a node is taken down, and later the power of one is cut."""
    path, here = pair
    job = launch(slurm, path, tmp_path, *PAIR)
    wait_for_step(tmp_path, 12)
    for node in ("h2", "h1") if FULL else ("h2",):
        slurm.controller.run("scontrol", "update", f"nodename={node}", "state=down", "reason=x")
        slurm.wait_for(job, {"PENDING"}, 60)
        slurm.controller.run("scontrol", "update", f"nodename={node}", "state=resume")
        wait_for_step(tmp_path, steps_done(tmp_path) + 5)
    slurm.power_off("h2")
    slurm.wait_for(job, {"PENDING"}, 90)
    assert steps_done(tmp_path) < PAIR_STEPS
    slurm.boot("h2")
    assert slurm.wait_for(job, ENDED, 120) == "COMPLETED", log_of(tmp_path)
    assert losses(tmp_path) == here
    assert log_of(tmp_path).count("resumed from step") == (3 if FULL else 2)


def test_a_step_saves_before_its_time_is_over(slurm: Slurm, pair: Reference, tmp_path: Path) -> None:
    """Oracle: Slurm's clock: it would end the job after a minute, and the run is to be saved 48 s before that."""
    step = ("srun", "--nodes=1", "--ntasks-per-node=2", "--time=1")
    began = time.monotonic()
    endless = ("train.steps=100000", "checkpoint.before_limit=48", "checkpoint.every=0")
    command = pair.train(tmp_path, *endless)
    done = slurm.controller.run(*step, *command, cwd=ROOT, timeout=120)
    assert done.returncode == 75, done.stdout + done.stderr
    assert 11 <= time.monotonic() - began < 55
    assert "the job's time limit: " in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("by", ["megalm stop", "scancel"])
def test_a_job_that_is_stopped_saves_and_is_not_requeued(
    slurm: Slurm, pair: Reference, tmp_path: Path, by: str
) -> None:
    path, here = pair
    job = launch(slurm, path, tmp_path, *PAIR)
    wait_for_step(tmp_path, 5)
    if by == "scancel":
        slurm.controller.run("scancel", job)
    else:
        assert f"job {job} was asked to save and to end" in megalm(slurm, "stop", tmp_path).stdout
    assert slurm.wait_for(job, ENDED, 60) == ("CANCELLED" if by == "scancel" else "FAILED")
    slurm.wait_until_idle(60)
    done = steps_done(tmp_path)
    assert max(completed_steps(tmp_path)) == done < PAIR_STEPS
    assert losses(tmp_path) == here[:done]
    assert "ended with exit code 75" in megalm(slurm, "status", tmp_path).stdout
    assert slurm.state_of(job) in ENDED


def test_an_array_of_runs_with_names_that_would_do_harm(slurm: Slurm, pair: Reference, tmp_path: Path) -> None:
    """Oracle: sbatch's own reading of the file; which files there are in the end."""
    path, _ = pair
    folder = tmp_path / "%a%j; touch pwned"
    folder.mkdir()
    name = "$(touch pwned) '\" é#%j -%a"
    options = ("--nodes", "2", "--ntasks-per-node", "1", "--time", "10", "--array", "0-1")
    more = ("train.steps=2", "run.seed=%a", "checkpoint.every=0", f"run.dir={name}")
    done = megalm(slurm, "launch", "slurm", path, *options, *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    job = done.stdout.splitlines()[-1]
    run_dirs = [folder / name.replace("%a", str(number)) for number in range(2)]
    for number, run_dir in enumerate(run_dirs):
        assert slurm.wait_for(f"{job}_{number}", ENDED, 120) == "COMPLETED", log_of(run_dir)
        assert (run_dir / f"slurm-{job}_{number}.log").is_file()
        assert f"job {job}_{number} of Slurm" in megalm(slurm, "status", run_dir).stdout
    assert len(losses(run_dirs[0])) == 2
    assert losses(run_dirs[0]) != losses(run_dirs[1])
    assert sorted(folder.iterdir()) == sorted(run_dirs)
    assert list(tmp_path.rglob("pwned")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--partition", "nope"), "Slurm refuses the job: invalid partition specified: nope"),
        (("--nodes", "4", "layout.dp=4"), "Requested node configuration is not available"),
        (("--container-image", "x"), "this Slurm's srun has no --container-image"),
    ],
)
def test_what_slurm_refuses_is_one_sentence(
    slurm: Slurm, reference: Reference, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    path, _ = reference
    done = megalm(slurm, "launch", "slurm", path, *NODES, *words, f"run.dir={tmp_path / 'run'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("megalm: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
