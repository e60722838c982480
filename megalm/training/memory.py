"""How much memory a rank has needed at most."""

import resource
import sys
from pathlib import Path

GIB = 2**30


def peak_memory_gib(device_peak_bytes: int | None = None) -> float:
    """Return the peak memory of this rank so far, in GiB.

    Args:
        device_peak_bytes: the accelerator's own count of its peak, on a run that has one; ``None`` on CPU, where the
            peak is this process's resident memory.
    """
    return (peak_resident_bytes() if device_peak_bytes is None else device_peak_bytes) / GIB


def peak_resident_bytes() -> int:
    """Return the most resident memory this process has had.

    Linux tells it in ``/proc``; ``getrusage``, the answer elsewhere, is not asked there because a process inherits the
    number of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
