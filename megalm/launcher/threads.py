"""How many threads a rank computes with."""

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def threads_per_rank(local_world_size: int) -> int:
    """Return this machine's cores over its ranks, at least 1: ranks that share cores wait for one another."""
    return max(1, usable_cores() // local_world_size)


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Return the cores that this process may use: in a container no more than it is allowed the time of.

    Args:
        cgroups: where Linux shows what this process's container is allowed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _allowance(cgroups))))


def _allowance(cgroups: Path) -> float:
    """Return the processor time allowed in each second, in cores; infinite without a limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):  # version 2: "max 100000" or "150000 100000"
        quota, period = (cgroups / "cpu.max").read_text().split()
        return float(quota.replace("max", "inf")) / float(period)
    with suppress(OSError, ValueError, ZeroDivisionError):  # version 1: -1 without a limit
        quota, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    return math.inf
