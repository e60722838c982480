"""Where the ranks meet, found before anything waits: one address, one socket on it, one interface for what follows.

Only the address that MASTER_ADDR stands for is listened on, and only for as long as the run lives. Whoever cannot meet
is told at once: torch and gloo would wait in silence for a name that nobody knows.
"""

import errno
import os
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

from megalm.errors import SaidByAnother, UserError
from megalm.launcher.network import LOOPBACK, Address, Interface, interfaces, own_address_towards, resolve
from megalm.launcher.placement import Placement

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
NAME_PATIENCE_S = 10.0
"""How long a name may be unknown: containers that start together learn one another's a moment later."""
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"


class Meeting(NamedTuple):
    """What one rank does to meet the others.

    Args:
        address: where they meet, in numbers.
        port: on which port.
        listen_fd: rank 0, unless torchrun's agent has the store: the socket, bound and listening.
        variables: what is to be added to the environment: the interface over which gloo and nccl talk.
    """

    address: str
    port: int
    listen_fd: int | None
    variables: Mapping[str, str]


def agent_has_store(env: Mapping[str, str]) -> bool:
    """Whether torchrun's agent listens on the port already; else rank 0 does, on another port at each start."""
    return env.get(AGENT_STORE) == "True"


def attempt(env: Mapping[str, str]) -> str:
    """Return what tells the starts of ranks apart that meet in one store: torchrun's outlives those of an attempt.

    Where each start has a store of its own the agents' counts mean nothing: one that came later has counted less.
    """
    return env.get("TORCHELASTIC_RESTART_COUNT", "0") if agent_has_store(env) else "0"


def prepare(placement: Placement, env: Mapping[str, str]) -> Meeting:
    """Return where a rank of several meets the others, with the socket for it on rank 0.

    Args:
        placement: which rank this is.
        env: ``os.environ``; interfaces that it names already stay.

    Raises:
        UserError: MASTER_ADDR cannot be where they meet, or no interface leads there; what all ranks of a machine find,
            the first of them tells.
    """
    try:
        return _prepare(placement, env)
    except UserError as error:
        if placement.local_rank and placement.rank:
            raise SaidByAnother(str(error)) from error
        raise


def _prepare(placement: Placement, env: Mapping[str, str]) -> Meeting:
    spans = placement.world_size > placement.local_world_size
    known = interfaces()
    address = _resolve(placement.master_addr)
    agent = agent_has_store(env)
    if spans and address.is_loopback and not agent:
        address = _seen_from_outside(placement.master_addr, address, known)
    variables = _interfaces_chosen(address, spans, known, env)
    listen_fd = placement.listen_fd
    if placement.rank == 0 and listen_fd is None and not agent:
        listen_fd = listen(address, placement.master_port, placement.world_size).detach()
    return Meeting(str(address), placement.master_port, listen_fd, variables)


def listen(address: Address, port: int, num_ranks: int) -> socket.socket:
    """Return a socket that listens on one address of this machine.

    Args:
        address: which.
        port: which; 0 for any that is free.
        num_ranks: how many may come at once.

    Raises:
        UserError: it is another machine's, or the port is taken.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        return socket.create_server((str(address), port), family=family, backlog=max(128, num_ranks))
    except OSError as error:
        here = socket.gethostname()
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"rank 0 runs on {here}, which does not have the address {address} that MASTER_ADDR stands for; set "
                "MASTER_ADDR to rank 0's machine."
            ) from error
        raise UserError(
            f"rank 0 cannot listen on {address}, port {port}, of {here} ({os.strerror(error.errno or 0)}); set "
            "MASTER_PORT to a free port."
        ) from error


def _resolve(host: str) -> Address:
    end = time.monotonic() + NAME_PATIENCE_S
    while True:
        try:
            return resolve(host)
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"MASTER_ADDR={host} has no address on {socket.gethostname()} ({error.strerror}); set it to a name "
                    "or an address of rank 0's machine that all machines know."
                ) from error
        time.sleep(0.5)


def _seen_from_outside(name: str, address: Address, known: list[Interface]) -> Address:
    """Return this machine's one address in place of a loopback one, by which other machines would find themselves."""
    others = [one.address for one in known if not one.address.is_loopback and one.address.version == address.version]
    if name in ("localhost", str(address)) or len(others) != 1:
        raise UserError(
            f"MASTER_ADDR={name} is {address} on {socket.gethostname()}, by which no other machine finds it; set it to "
            "an address of rank 0's machine in the network of all."
        )
    return others[0]


def _interfaces_chosen(
    address: Address, spans: bool, known: list[Interface], env: Mapping[str, str]
) -> Mapping[str, str]:
    """Return the variables that name the interface towards ``address``, where the user has not said which."""
    names = {one.name for one in known}
    if known and GLOO in env and not set(env[GLOO].split(",")) <= names:
        raise UserError(
            f"{GLOO}={env[GLOO]} is no interface of {socket.gethostname()}, which has {', '.join(sorted(names))}; name "
            "one of them, or unset it."
        )
    if not known or (GLOO in env and NCCL in env):
        return {}
    own = own_address_towards(address) if spans else resolve(LOOPBACK)
    if spans and own is not None and own.is_loopback:  # torchrun's agent listens on all addresses of this machine
        own = next((one.address for one in known if not one.address.is_loopback), None)
    found = next((one.name for one in known if one.address == own), None)
    if found is None:
        raise UserError(
            f"{socket.gethostname()} has no network interface that leads to MASTER_ADDR ({address}); connect it, or "
            f"set {GLOO} and {NCCL} to the one that does."
        )
    return {name: value for name, value in ((GLOO, found), (NCCL, f"={found}")) if name not in env}
