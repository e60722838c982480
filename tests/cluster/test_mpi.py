"""Oracle: the loss column of the same run by megalm's own launcher, bit for bit; ``ss`` says who listens where."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megalm.launcher.job import Job
from tests.cluster.conftest import PAIR_STEPS
from tests.cluster.ssh import Ssh
from tests.reference import Reference
from tests.training.test_kills import ROOT, losses, processes_of, steps_done, wait_until_gone

MPICH = Path(sys.executable).parent / "mpirun"
OPEN_MPI = shutil.which("mpirun.openmpi")
pytestmark = pytest.mark.skipif(
    not MPICH.exists() or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and MPICH's mpirun: pip install -c constraints.txt -e .[mpi]",
)


def start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, "COLUMNS": "200"})


def wait_for_step(process: "subprocess.Popen[bytes] | subprocess.Popen[str]", run_dir: Path, step: int) -> None:
    end = time.monotonic() + 240
    while steps_done(run_dir) < step and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert steps_done(run_dir) >= step


def ranks_of(run_dir: Path) -> list[int]:
    """Return the process ids of what trains, without launchers and mpirun."""
    found = []
    for pid in processes_of(run_dir):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[1:4] == [b"-m", b"megalm", b"train"]:
            found.append(pid)
    return found


def test_a_killed_launcher_takes_its_ranks_along(pair: Reference, tmp_path: Path) -> None:
    launcher = start(pair.launch("mpi", tmp_path / "run", "train.steps=100000", "--np=2"), tmp_path / "log")
    wait_for_step(launcher, tmp_path / "run", 1)
    launcher.kill()
    launcher.wait()
    wait_until_gone(tmp_path / "run", 5)


@pytest.mark.skipif(OPEN_MPI is None, reason="needs Open MPI's mpirun: apt-get install openmpi-bin")
def test_open_mpi_saves_when_it_is_told_to_end_and_goes_on(pair: Reference, tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    command = pair.launch("mpi", run_dir, f"--mpirun={OPEN_MPI}")
    first = start(command, log)
    wait_for_step(first, run_dir, 3)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=240) == 75, log.read_text()
    done = steps_done(run_dir)
    assert 3 <= done < PAIR_STEPS
    assert f": saved after step {done} of {PAIR_STEPS}" in (run_dir / "log.txt").read_text()
    assert start(command, log).wait(timeout=240) == 0, log.read_text()
    assert losses(run_dir) == pair.losses


def test_ranks_on_two_hosts_meet_in_their_network_alone_and_start_again_when_one_is_killed(
    ssh: Ssh, reference: Reference, tmp_path: Path
) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    (tmp_path / "hosts").write_text("# two of each\nh1 slots=2\nh2:2\n")
    command = reference.launch("mpi", run_dir, f"--hostfile={tmp_path}/hosts", "run.max_restarts=1")
    env = {**os.environ, "HYDRA_LAUNCHER_EXEC": str(ssh.program)}
    with log.open("w") as file:
        launcher = ssh["h0"].start(*command, env=env, cwd=ROOT, stdout=file, stderr=file)
    wait_for_step(launcher, run_dir, 1)
    heard = {name: listening(ssh, name) for name in ("h1", "h2")}
    killed = ranks_of(run_dir)[1]
    wait_for_step(launcher, run_dir, 11)
    os.kill(killed, signal.SIGKILL)
    job = Job.read(run_dir)
    assert job is not None
    assert (job.launcher, job.host) == ("mpi", "h0")
    assert launcher.wait(timeout=240) == 0, log.read_text()
    assert re.search(r"megalm: restart 1 of 1 in 1 s, from step \d0", log.read_text())
    assert losses(run_dir) == reference.losses
    for name, sockets in heard.items():
        addresses = {address for address, _ in sockets}
        assert ssh[name].address in addresses, json.dumps(sockets)
        assert addresses <= {ssh[name].address, "127.0.0.1"}, json.dumps(sockets)


def listening(ssh: Ssh, name: str) -> list[tuple[str, str]]:
    """Return the addresses that python processes of a host listen on, and the words of ``ss`` about them."""
    lines = ssh[name].run("ss", "-ltnpH").stdout.splitlines()
    return [(line.split()[3].rpartition(":")[0], line) for line in lines if "python" in line]
