"""Ranks that mpirun started agree by MPI where they meet, since mpirun does not tell them.

Only bytes travel, no pickles. MPI stays until the rank ends: one that ends in order takes its leave of MPI with the
others, and one that fails has MPI end all of them, those that are stopped or hang too.
"""

import array
import atexit
import importlib.util
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from megalm.errors import SaidByAnother, UserError
from megalm.extras import import_extra
from megalm.launcher.exit_codes import FAILED, REFUSED
from megalm.launcher.meeting import GLOO, listen
from megalm.launcher.network import LOOPBACK, Address, Interface, interfaces, own_address_towards
from megalm.launcher.placement import Placement

LIBRARIES = {"openmpi": "libmpi.so.40", "mpich": "libmpi.so.12"}
LONGEST = 1024
"""Bytes of what rank 0 tells all."""
MOST_ADDRESSES = 16
"""Of a machine, that rank 0 looks at."""
LAST_WORDS_S = 1.0
"""From a rank's failure until MPI ends all: others that found the same say what they waited for."""


def wanted(placement: Placement, env: Mapping[str, str]) -> bool:
    """Whether MPI is to tell where the ranks meet.

    That is so under mpirun when MASTER_ADDR and MASTER_PORT do not; and in an srun step that speaks PMI
    (``--mpi=pmi2``) if mpi4py is there. Without it Slurm's own variables are enough.
    """
    if placement.launcher == "slurm":
        untold = not env.keys() & {"MASTER_ADDR", "MASTER_PORT"}
        return untold and "PMI_SIZE" in env and importlib.util.find_spec("mpi4py") is not None
    return placement.world_size > 1 and not placement.master_addr


@contextmanager
def agreed(placement: Placement, env: Mapping[str, str]) -> Iterator[Placement]:
    """Yield the placement with the meeting place that the ranks have agreed on, if MPI is to tell it.

    Args:
        placement: as the environment tells it.
        env: ``os.environ``.

    Raises:
        UserError: there is no mpi4py, it speaks to another MPI than the one that started the ranks, or rank 0 finds no
            address that the others reach.
    """
    if not wanted(placement, env):
        yield placement
        return
    mpi = _import(placement)
    own = not mpi.Is_initialized()
    if own:
        mpi.Init()
    try:
        yield _agree(mpi, placement, env)
    except BaseException as error:
        if own:
            atexit.register(_end_all, mpi, _code(error))
        raise
    if own:
        mpi.Finalize()


def _import(placement: Placement) -> Any:
    """Return mpi4py's MPI, of the kind whose mpirun started this rank, not initialized by its import."""
    if placement.launcher in LIBRARIES:  # mpi4py's wheel speaks to either, and takes the first that it finds
        library = LIBRARIES[placement.launcher]
        os.environ.setdefault("MPI4PY_LIBMPI", os.pathsep.join([str(Path(sys.prefix, "lib", library)), library]))
    key = "mpirun without MASTER_ADDR and MASTER_PORT"
    try:
        rc = import_extra("mpi", key, "mpi4py").rc
        rc.initialize = rc.finalize = False
        return import_extra("mpi", key, "mpi4py.MPI")
    except (UserError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, UserError):
            text = f"mpi4py finds no MPI library ({text.splitlines()[0]}); install one with pip install 'megalm[mpi]'."
        raise (SaidByAnother if placement.rank else UserError)(text) from error


def _code(error: BaseException) -> int:
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return REFUSED if isinstance(error, UserError) else FAILED


def _end_all(mpi: Any, code: int) -> None:
    """End all ranks, after what each had to say; mpirun returns ``code``."""
    time.sleep(LAST_WORDS_S)
    mpi.COMM_WORLD.Abort(code)


def _agree(mpi: Any, placement: Placement, env: Mapping[str, str]) -> Placement:
    world = mpi.COMM_WORLD
    if world.size != placement.world_size:
        library = mpi.Get_library_version().split(",")[0].splitlines()[0].strip()
        text = (
            f"{placement.launcher} started {placement.world_size} ranks, but mpi4py sees {world.size} of them through "
            f"{library}: it speaks to another MPI; use the mpirun of that one, or set MASTER_ADDR and MASTER_PORT."
        )
        raise (SaidByAnother if placement.rank else UserError)(text)
    local = world.Split_type(mpi.COMM_TYPE_SHARED)
    local_rank, local_world_size = local.rank, local.size
    local.Free()
    if placement.launcher == "slurm":
        local_rank, local_world_size = placement.local_rank, placement.local_world_size
    told = bytearray(LONGEST)
    listener: socket.socket | None = None
    refusal: UserError | None = None
    theirs = _gather(mpi, world)
    if world.rank == 0:
        try:
            address = _address(theirs, local_world_size == world.size, env)
            listener = listen(address, 0, world.size)
            answer = f"{address} {listener.getsockname()[1]}"
        except UserError as error:
            refusal, answer = error, f"! {error}"
        told[:] = answer.encode(errors="replace")[:LONGEST].ljust(LONGEST, b"\0")
    world.Bcast([told, mpi.BYTE], root=0)
    first, _, rest = told.rstrip(b"\0").decode(errors="replace").partition(" ")
    if first == "!":
        raise refusal or SaidByAnother(rest)
    return replace(
        placement,
        local_rank=local_rank,
        local_world_size=local_world_size,
        master_addr=first,
        master_port=int(rest),
        listen_fd=None if listener is None else listener.detach(),
    )


def _outward(known: Sequence[Interface]) -> list[Interface]:
    """Return the IPv4 addresses by which others may find this machine."""
    return [one for one in known if one.address.version == 4 and not one.address.is_loopback]


def _gather(mpi: Any, world: Any) -> list[list[Address]]:
    """Return on rank 0 the addresses of each rank's machine."""
    own = [int(one.address) for one in _outward(interfaces())][:MOST_ADDRESSES]
    sent = array.array("L", own + [0] * (MOST_ADDRESSES - len(own)))
    received = array.array("L", [0] * (MOST_ADDRESSES * (world.size if world.rank == 0 else 0)))
    world.Gather([sent, mpi.UNSIGNED_LONG], [received, mpi.UNSIGNED_LONG] if world.rank == 0 else None, root=0)
    rows = [received[first : first + MOST_ADDRESSES] for first in range(0, len(received), MOST_ADDRESSES)]
    return [[ipaddress.IPv4Address(number) for number in row if number] for row in rows]


def _address(theirs: Sequence[Sequence[Address]], one_machine: bool, env: Mapping[str, str]) -> Address:
    """Return the address of this machine, rank 0's, where the ranks meet."""
    if one_machine:
        return ipaddress.ip_address(LOOPBACK)
    own = _outward(interfaces())
    if GLOO in env:
        own = [one for one in own if one.name in env[GLOO].split(",")]
    found = reachable(own, theirs)
    if found is None:
        raise UserError(
            f"{socket.gethostname()} has no address that the other machines share a network with; set MASTER_ADDR and "
            "MASTER_PORT, the same for all ranks."
        )
    return found


def reachable(own: Sequence[Interface], theirs: Sequence[Sequence[Address]]) -> Address | None:
    """Return the address of this machine that most ranks share a network with, or from which the others are reached.

    Args:
        own: its addresses.
        theirs: those of each rank's machine, this one's first; one that this machine has too is no way to another (a
            bridge of containers has the same address everywhere).
    """
    others = [set(addresses) for addresses in theirs if set(addresses) != set(theirs[0])]
    candidates = [one for one in own if not any(one.address in addresses for addresses in others)]
    counts = [len([0 for addresses in others if any(map(one.reaches, addresses))]) for one in candidates]
    if any(counts):
        return candidates[counts.index(max(counts))].address
    towards = {own_address_towards(address) for addresses in others for address in addresses}
    return next((one.address for one in candidates if one.address in towards), None)
