"""This machine's addresses, those of others by name, and from which of one's own another is reached."""

import ipaddress
import socket
from typing import NamedTuple

import psutil

LOOPBACK = "127.0.0.1"
DISCARD = 9
"""A port: nothing is sent there, but the kernel wants one to choose a route."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Interface(NamedTuple):
    """An address of this machine.

    Args:
        name: of the network interface that has it: ``eth0``.
        address: the address.
        prefix: how many bits of it are the network's.
    """

    name: str
    address: Address
    prefix: int

    def reaches(self, other: Address) -> bool:
        """Whether another address lies in this one's own network."""
        return other in ipaddress.ip_network((self.address, self.prefix), strict=False)


def interfaces() -> list[Interface]:
    """Return the addresses of this machine."""
    return [
        Interface(name, _plain(one.address), int(_plain(one.netmask)).bit_count())
        for name, found in psutil.net_if_addrs().items()
        for one in found
        if one.family in (socket.AF_INET, socket.AF_INET6) and one.netmask is not None
    ]


def _plain(text: str) -> Address:
    """Read an address, without the interface that a local one of IPv6 names: ``fe80::1%eth0``."""
    return ipaddress.ip_address(text.partition("%")[0])


def resolve(host: str) -> Address:
    """Return the address of a host: the first IPv4 one where there are several, so that all machines take one kind.

    Raises:
        OSError: this machine knows none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(0, "that is no name of a host") from error
    texts = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
    return _plain(texts[0])


def own_address_towards(other: Address) -> Address | None:
    """Return the address of this machine from which another one is reached, or ``None`` without a route there."""
    family = socket.AF_INET if other.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(other), DISCARD))  # nothing is sent: the kernel only chooses a route
        except OSError:
            return None
        return _plain(probe.getsockname()[0])
