"""What Slurm says of an srun step: where its ranks meet, and when the job ends."""

import contextlib
import os
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from megalm.errors import UserError

FIRST_PORT = 20_000
NUM_PORTS = 10_000
SQUEUE_TIMEOUT_S = 20.0
STEPS_OF_A_JOB = 7
"""Ports apart between the first steps of neighbouring jobs."""


def first_host(node_list: str) -> str:
    """Return the first host of a Slurm node list: ``gpu[003-006,9],login1`` is ``gpu003``.

    Raises:
        UserError: it is no node list.
    """
    match = re.match(r"^([^\[\],]+)(?:\[(\d+)[-,\d]*\]([^\[\],]*))?(?:,|$)", node_list)
    if match is None:
        raise UserError(f"the node list {node_list!r} is not understood; set MASTER_ADDR to the host of rank 0.")
    return match[1] + (match[2] or "") + (match[3] or "")


def own_step() -> str | None:
    """Return the step of a job that this process was started in: a number, ``batch``, ...; ``None`` if none is seen.

    Variables do not tell it: a batch script that a task of a step has submitted inherits that step's. The process that
    Slurm starts for each step does, by its title.
    """
    pid = os.getpid()
    with contextlib.suppress(OSError, ValueError, IndexError):
        while pid > 1:
            match = re.match(rb"slurmstepd: \[\d+\.([^\]]+)\]", Path(f"/proc/{pid}/cmdline").read_bytes())
            if match is not None:
                return match[1].decode(errors="replace")
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    return None


def end_of_job(env: Mapping[str, str]) -> float | None:
    """Return the Unix time at which Slurm ends the job that this process is a part of; ``None`` where it is not known.

    Slurm 22.05 and older do not tell it by a variable, so squeue is asked; let one rank do that.

    Args:
        env: ``os.environ``.
    """
    told = env.get("SLURM_JOB_END_TIME", "")
    if told.isdecimal() and int(told):
        return float(told)
    if "SLURM_JOB_ID" not in env:
        return None
    job = env["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in env:  # one of the tasks has the whole array's number
        job = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    ask = ["squeue", "--noheader", f"--jobs={job}", "--format=%e"]
    try:
        answer = subprocess.run(ask, env=env, capture_output=True, text=True, timeout=SQUEUE_TIMEOUT_S).stdout.split()
        return datetime.fromisoformat(answer[0]).timestamp()
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):  # no such program, no answer, no limit
        return None


def port_of_step(job: int, step: int) -> int:
    """Return a port that every task of a step computes alike and that steps beside one another do not share."""
    return FIRST_PORT + (job * STEPS_OF_A_JOB + step) % NUM_PORTS
