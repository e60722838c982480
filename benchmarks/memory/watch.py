"""The memory of the processes of a run, as the kernel counts it: shared pages in proportion (PSS)."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

INTERVAL_S = 0.1
"""Counting walks the pages of a process, which takes as long as a tenth of this."""


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process, 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def peaks(command: Sequence[str], env: dict[str, str]) -> list[int]:
    """Run ``megalm train`` and return the peak PSS of each of its ranks, in the order in which they were started.

    Raises:
        RuntimeError: the run failed; its last words are told.
    """
    run = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    most: dict[int, int] = {}
    while run.poll() is None:
        for child in children(run.pid):
            most[child] = max(most.get(child, 0), pss_bytes(child))
        time.sleep(INTERVAL_S)
    said = run.stdout.read() if run.stdout is not None else ""
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}:\n{said[-2000:]}")
    return list(most.values())
