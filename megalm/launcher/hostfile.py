"""The file that names the machines of a run: a host a line, and how many ranks it has room for."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from megalm.errors import UserError

HOST = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""A name or an IPv4 address. It never begins as an option does, for it becomes an argument of ssh and mpirun."""
OPEN_MPI = re.compile(rf"({HOST})\s+slots\s*=\s*(\d{{1,6}})(?:\s+max[_-]slots\s*=\s*\d+)?")
MPICH = re.compile(rf"({HOST})\s*:\s*(\d{{1,6}})")


class Slots(NamedTuple):
    """A machine of a run.

    Args:
        host: its name or address.
        slots: how many ranks it has room for, or is given.
    """

    host: str
    slots: int


def read_hostfile(path: Path) -> list[Slots]:
    """Return the machines of a file with lines ``host slots=N``, as Open MPI has them, or ``host:N``, as MPICH does.

    What follows a ``#`` is a comment, and empty lines say nothing.

    Raises:
        UserError: the file cannot be read, names no host, or a line is not understood; with the line's number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(
            f"the hostfile {path} cannot be read ({reason}); name a file with a line for each host."
        ) from error
    found: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        match = OPEN_MPI.fullmatch(entry) or MPICH.fullmatch(entry)
        if match is None or not int(match[2]):
            raise UserError(
                f"{path}, line {number}: {entry!r} is not understood; write 'host slots=N' with N from 1 upwards."
            )
        if match[1] in found:
            raise UserError(
                f"{path}, line {number}: {match[1]} is there already in line {found[match[1]][1]}; name a host once, "
                "with all its slots."
            )
        found[match[1]] = int(match[2]), number
    if not found:
        raise UserError(f"the hostfile {path} names no host; write a line 'host slots=N' for each.")
    return [Slots(host, slots) for host, (slots, _) in found.items()]


def fill(hosts: Sequence[Slots], num_ranks: int) -> list[Slots]:
    """Return how many ranks each machine gets when they are filled one after another; the unused ones are left out.

    Args:
        hosts: the machines.
        num_ranks: of the run.

    Raises:
        UserError: there is no room for so many.
    """
    room = sum(host.slots for host in hosts)
    if num_ranks > room:
        raise UserError(f"{num_ranks} ranks are more than the {room} slots of the hostfile; add hosts, or start fewer.")
    dealt = []
    for host in hosts:
        here = min(host.slots, num_ranks)
        if here:
            dealt.append(Slots(host.host, here))
        num_ranks -= here
    return dealt
