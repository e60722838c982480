"""This machine's addresses, those of others by name, and from which of one's own another is reached."""

import ctypes
import ipaddress
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

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


class _Ifaddrs(ctypes.Structure):
    """``struct ifaddrs`` of Linux."""


_Ifaddrs._fields_ = [
    ("next", ctypes.POINTER(_Ifaddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("mask", ctypes.c_void_p),
    ("other", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


def interfaces() -> list[Interface]:
    """Return the addresses of this machine, in the system's order; none where the system is not Linux."""
    if sys.platform != "linux":
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_Ifaddrs)()
    if libc.getifaddrs(ctypes.byref(first)):
        return []
    try:
        return list(_walk(first))
    finally:
        libc.freeifaddrs(first)


def _walk(entry: "ctypes._Pointer[_Ifaddrs]") -> Iterator[Interface]:
    while entry:
        one = entry.contents
        address, mask = _address(one.address), _address(one.mask)
        if address is not None and mask is not None:
            yield Interface(one.name.decode(), address, int(mask).bit_count())
        entry = one.next


def _address(sockaddr: int | None) -> Address | None:
    """Read a ``struct sockaddr``: the family in two bytes, then a port, for IPv6 a flow, and the address."""
    family = int.from_bytes(ctypes.string_at(sockaddr, 2), sys.byteorder) if sockaddr else socket.AF_UNSPEC
    if sockaddr and family == socket.AF_INET:
        return ipaddress.IPv4Address(ctypes.string_at(sockaddr + 4, 4))
    if sockaddr and family == socket.AF_INET6:
        return ipaddress.IPv6Address(ctypes.string_at(sockaddr + 8, 16))
    return None


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
    return ipaddress.ip_address(texts[0].partition("%")[0])


def own_address_towards(other: Address) -> Address | None:
    """Return the address of this machine from which another one is reached, or ``None`` without a route there."""
    family = socket.AF_INET if other.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(other), DISCARD))  # nothing is sent: the kernel only chooses a route
        except OSError:
            return None
        return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
