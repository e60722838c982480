"""Oracle: the losses of a run that one machine's launcher started, bit for bit; which processes are alive where."""

import shlex
import sys
import time
from pathlib import Path

import pytest

from megalm.launcher.ssh.launch import handed_on
from megalm.training import metrics
from tests.cluster.conftest import STEPS
from tests.cluster.ssh import Ssh
from tests.cluster.ssh_run import SshRun, wait_until_gone
from tests.reference import Reference
from tests.training.test_kills import ROOT, losses, steps_done

SLACK_S = 5.0
"""For a busy machine, beside the 5 s in which ranks end after their launcher."""


def test_ranks_of_two_hosts_save_when_told_and_go_on_to_the_same_losses(
    ssh: Ssh, reference: Reference, tmp_path: Path
) -> None:
    """The run directory's name would be a command to a shell that read it."""
    path, here = reference
    run_dir = tmp_path / f"x; touch {tmp_path.name}"
    first = SshRun(ssh, path, run_dir, tmp_path / "first")
    first.until(lambda: steps_done(run_dir) >= 5)
    first.signal("USR1")
    assert first.end() == 75, first.told
    done = steps_done(run_dir)
    assert 5 <= done < STEPS
    assert f"SIGUSR1: saved after step {done} of {STEPS}" in first.told
    second = SshRun(ssh, path, run_dir, tmp_path / "second")
    assert second.end() == 0, second.told
    assert losses(run_dir) == here
    assert [row["step"] for row in metrics.rows(run_dir / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert not list(Path("/root").glob(tmp_path.name))
    assert not (ROOT / tmp_path.name).exists()
    wait_until_gone(ssh, SLACK_S)


@pytest.mark.parametrize(
    ("slots", "option", "said"),
    [
        ("h1 slots=2\nh3 slots=2", None, "host h3 cannot be reached by ssh (ssh: Could not resolve hostname h3"),
        ("h1 slots=2\nh0 slots=2", None, "host h0 cannot be reached by ssh (ssh: connect to host h0 port 22: "),
        ("h1 slots=4", "--ssh=ssh", "host h1 cannot be reached by ssh (Host key verification failed."),
        ("h1 slots=4", "--python=/no/python", "host h1 does not start megalm ("),
        ("h1 slots=4", "--chdir=/no; touch /run/planted", "host h1 does not start megalm ("),
        ("h1 slots=4", "--python=OLD", "host h1 has megalm 0.0.1 and this machine "),
        ("h1 slots=2\nh2 slots=1", None, "4 ranks are more than the 3 slots of the hostfile"),
        ("h1 slots=1\nh2 slots=3", None, "a group of layout.tp=2 neighbouring ranks would lie on two machines"),
    ],
)
def test_a_host_that_is_not_fit_is_named(
    ssh: Ssh, reference: Reference, tmp_path: Path, slots: str, option: str | None, said: str
) -> None:
    path, _ = reference
    old = tmp_path / "old"
    code = "import megalm; megalm.__version__ = '0.0.1'; from megalm.cli.main import main; main()"
    old.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -c {shlex.quote(code)} "$@"\n')
    old.chmod(0o755)
    options = [] if option is None else [option.replace("OLD", str(old))]
    began = time.monotonic()
    started = SshRun(ssh, path, tmp_path / "run", tmp_path / "told", *options, slots=slots)
    assert started.end() == 2
    assert time.monotonic() - began < 60
    (line,) = started.told.splitlines()
    assert line.startswith(f"megalm: {said}")
    wait_until_gone(ssh, SLACK_S)
    assert ssh["h1"].run("test", "-e", "/run/planted").returncode == 1


def test_ranks_get_what_is_listed_of_the_environment() -> None:
    env = {"NCCL_DEBUG": "INFO", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "2", "SECRET": "s", "HOME": "/root"}
    assert handed_on(env, []) == {"NCCL_DEBUG": "INFO", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "2"}
    assert handed_on(env, ["HOME"]).keys() - handed_on(env, []).keys() == {"HOME"}
