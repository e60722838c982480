"""What this machine says of the process of a rank, for a rank that runs on it."""

import os
import socket
from pathlib import Path
from typing import Literal

from megalm.watch.position import Position

Life = Literal["runs", "stopped", "gone", "unseen"]


def this_machine() -> str:
    """Return a word that differs wherever one process id means two processes: machine and container."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def born(pid: int) -> int:
    """Return when a process began, in the machine's own count; 0 where that is not told."""
    told = _stat(pid)
    return int(told[19]) if told else 0


def age_s(pid: int) -> float | None:
    """Return for how many seconds a process has run; ``None`` where it does not, or that is not told."""
    told = _stat(pid)
    if not told or told[0] in "ZX":
        return None
    return float(Path("/proc/uptime").read_text().split()[0]) - int(told[19]) / os.sysconf("SC_CLK_TCK")


def life_of(position: Position, here: str) -> Life:
    """Return how a rank's process is: ``unseen`` where it is another machine's.

    Args:
        position: of the rank.
        here: ``this_machine()``.
    """
    if position.machine != here:
        return "unseen"
    try:
        os.kill(position.pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    told = _stat(position.pid)
    if not told:
        return "unseen"
    if told[0] in "ZX" or (position.born and int(told[19]) != position.born):
        return "gone"
    return "stopped" if told[0] in "Tt" else "runs"


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the program's name: first its state, the 20th its start."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
