"""How many threads a rank computes with."""

import os


def threads_per_rank(local_world_size: int) -> int:
    """Return this machine's cores over its ranks, at least 1: ranks that share cores wait for one another."""
    return max(1, usable_cores() // local_world_size)


def usable_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
