"""Where the ranks of an srun step meet."""

import re

from megalm.errors import UserError

FIRST_PORT = 20_000
NUM_PORTS = 10_000
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


def port_of_step(job: int, step: int) -> int:
    """Return a port that every task of a step computes alike and that steps beside one another do not share."""
    return FIRST_PORT + (job * STEPS_OF_A_JOB + step) % NUM_PORTS
