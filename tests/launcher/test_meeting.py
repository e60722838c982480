"""Oracle: real sockets and names of this machine; ``tests/cluster`` has hosts with networks of their own."""

import ipaddress
import socket
from collections.abc import Iterator

import pytest

from megalm.errors import SaidByAnother, UserError
from megalm.launcher import meeting
from megalm.launcher.meeting import AGENT_STORE, GLOO, NCCL, prepare
from megalm.launcher.network import interfaces
from megalm.launcher.placement import Placement

OUTWARD = [one for one in interfaces() if one.address.version == 4 and not one.address.is_loopback]


def place(rank: int, address: str, port: int = 0, local_world_size: int = 1) -> Placement:
    """Return a rank of two: each on its own machine, or both on one."""
    return Placement(rank, 2, rank * (local_world_size - 1), local_world_size, address, port, "torchrun")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "NAME_PATIENCE_S", 0.0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as there:
        yield there


def test_on_one_machine_all_is_on_the_loopback_interface() -> None:
    found = prepare(place(0, "localhost", local_world_size=2), {})
    assert found.listen_fd is not None
    with socket.socket(fileno=found.listen_fd) as listening:
        assert listening.getsockname()[0] == found.address == "127.0.0.1"
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    other = prepare(place(1, "localhost", local_world_size=2), {})
    assert (other.address, other.listen_fd) == ("127.0.0.1", None)
    assert found.variables == other.variables == {GLOO: "lo", NCCL: "=lo"}


def test_torchruns_agent_listens_itself() -> None:
    found = prepare(place(0, "localhost", 1, local_world_size=2), {AGENT_STORE: "True"})
    assert found.listen_fd is None


def test_interfaces_that_the_user_chose_stay() -> None:
    rank = place(1, "localhost", local_world_size=2)
    assert prepare(rank, {GLOO: "lo", NCCL: "ib0"}).variables == {}
    assert prepare(rank, {GLOO: "lo"}).variables == {NCCL: "=lo"}
    with pytest.raises(UserError, match=r"GLOO_SOCKET_IFNAME=ib77 is no interface of .*, which has .*lo"):
        prepare(place(0, "localhost", local_world_size=2), {GLOO: "ib77"})


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("local_rank", [0, 1])
def test_a_name_that_nobody_knows_is_told_by_the_first_rank_of_each_machine(local_rank: int) -> None:
    rank = Placement(2 + local_rank, 4, local_rank, 2, "no such host", 29500, "slurm")
    with pytest.raises(UserError, match="MASTER_ADDR=no such host has no address on ") as refused:
        prepare(rank, {})
    assert isinstance(refused.value, SaidByAnother) == bool(local_rank)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "127.0.1.1", "::1"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_over_machines_does_not_meet_where_each_finds_itself(address: str, rank: int) -> None:
    with pytest.raises(UserError, match=f"MASTER_ADDR={address} is .* by which no other machine finds it"):
        prepare(place(rank, address, 29500), {})


def test_an_address_of_another_machine_is_refused_by_rank_0() -> None:
    with pytest.raises(UserError, match=r"rank 0 runs on .*, which does not have the address 198.51.100.7 "):
        meeting.listen(ipaddress.ip_address("198.51.100.7"), 0, 2)


def test_a_port_that_is_taken_is_refused(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(UserError, match=f"rank 0 cannot listen on 127.0.0.1, port {port}, of .*Address already in use"):
        prepare(place(0, "127.0.0.1", port, local_world_size=2), {})


@pytest.mark.skipif(len(OUTWARD) != 1, reason="needs a machine with one IPv4 address beside the loopback one")
def test_a_name_that_is_a_loopback_address_at_home_is_listened_on_where_others_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Oracle: Debian's hosts file, which gives a machine's own name the address 127.0.1.1."""
    monkeypatch.setattr(meeting, "resolve", lambda host: ipaddress.ip_address("127.0.1.1"))
    found = prepare(place(0, "node7"), {})
    assert found.listen_fd is not None
    with socket.socket(fileno=found.listen_fd) as listening:
        assert listening.getsockname()[0] == found.address == str(OUTWARD[0].address)
    assert found.variables == {GLOO: OUTWARD[0].name, NCCL: f"={OUTWARD[0].name}"}
