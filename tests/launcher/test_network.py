"""Oracle: what ``ip`` prints of this machine's addresses, and its hosts file."""

import ipaddress
import json
import shutil
import socket
import subprocess

import pytest

from megalm.launcher.network import interfaces, own_address_towards, resolve


def test_interfaces_are_those_of_ip() -> None:
    program = shutil.which("ip", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if program is None:
        pytest.skip("needs the program ip: apt-get install iproute2")
    told = json.loads(subprocess.run([program, "-json", "addr"], capture_output=True, check=True).stdout)
    wanted = {
        (link["ifname"], address["local"], address["prefixlen"])
        for link in told
        for address in link.get("addr_info", [])
    }
    assert {(one.name, str(one.address), one.prefix) for one in interfaces()} == wanted


def test_an_address_reaches_those_of_its_own_network() -> None:
    (loopback,) = [one for one in interfaces() if str(one.address) == "127.0.0.1"]
    assert loopback.reaches(ipaddress.ip_address("127.9.9.9"))
    assert not loopback.reaches(ipaddress.ip_address("128.0.0.1"))
    assert not loopback.reaches(ipaddress.ip_address("::1"))
    assert own_address_towards(loopback.address) == loopback.address


def test_ipv4_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [*socket.getaddrinfo("::1", None), *socket.getaddrinfo("127.0.0.1", None)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    assert str(resolve("both")) == "127.0.0.1"


def test_a_name_that_nobody_knows_is_an_error() -> None:
    assert str(resolve("localhost")) == "127.0.0.1"
    assert str(resolve("::1")) == "::1"
    for name in ("not a name", "x" * 80, ""):
        with pytest.raises(OSError, match=r"[Nn]ame"):
            resolve(name)
