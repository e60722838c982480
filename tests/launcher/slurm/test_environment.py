"""Oracle: Slurm's notation of node lists, as ``scontrol show hostnames`` expands it."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.launcher.slurm.environment import FIRST_PORT, NUM_PORTS, end_of_job, first_host, port_of_step


@pytest.mark.parametrize(
    ("node_list", "host"),
    [
        ("login1", "login1"),
        ("h1,h2", "h1"),
        ("h[1-2]", "h1"),
        ("gpu[003-006,9],login1", "gpu003"),
        ("rack-2-node[7,9-12]", "rack-2-node7"),
        ("n[1-2]-ib,n5", "n1-ib"),
    ],
)
def test_first_host(node_list: str, host: str) -> None:
    assert first_host(node_list) == host


@pytest.mark.parametrize("node_list", ["", "[1-2]", "h[", ",h1"])
def test_what_is_no_node_list_is_refused(node_list: str) -> None:
    with pytest.raises(UserError, match="MASTER_ADDR"):
        first_host(node_list)


def test_steps_beside_one_another_meet_on_different_ports() -> None:
    ports = [port_of_step(job, step) for job in range(50) for step in range(7)]
    assert len(set(ports)) == len(ports)
    assert all(FIRST_PORT <= port_of_step(job, 3) < FIRST_PORT + NUM_PORTS for job in (1, 10**6, 10**9 - 1))


def squeue(folder: Path, answer: str, job: str = "12") -> dict[str, str]:
    """Return the environment of a job whose squeue answers so."""
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = '--noheader --jobs={job} --format=%e' ] && echo '{answer}'\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}


def test_the_end_of_a_job_is_told_or_asked_for(tmp_path: Path) -> None:
    """Oracle: the words of a program that answers as squeue does; ``tests/cluster`` asks the real one."""
    end = datetime(2026, 3, 1, 12, 30).timestamp()
    asked = squeue(tmp_path, "2026-03-01T12:30:00")
    assert end_of_job(asked) == end
    assert end_of_job(asked | {"SLURM_JOB_END_TIME": "1234"}) == 1234
    assert end_of_job(asked | {"SLURM_JOB_END_TIME": "0"}) == end
    task = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}
    assert end_of_job(squeue(tmp_path, "2026-03-01T12:30:00", "9_3") | task) == end


def test_without_an_answer_no_end_is_known(tmp_path: Path) -> None:
    assert end_of_job({}) is None
    assert end_of_job({"PATH": str(tmp_path), "SLURM_JOB_ID": "12"}) is None
    for answer in ("", "N/A", "UNLIMITED"):
        assert end_of_job(squeue(tmp_path, answer)) is None
