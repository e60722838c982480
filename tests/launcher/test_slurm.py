"""Oracle: Slurm's notation of node lists, as ``scontrol show hostnames`` expands it."""

import pytest

from megalm.errors import UserError
from megalm.launcher.slurm import FIRST_PORT, NUM_PORTS, first_host, port_of_step


@pytest.mark.parametrize(
    ("node_list", "host"),
    [
        ("login1", "login1"),
        ("h1,h2", "h1"),
        ("h[1-2]", "h1"),
        ("gpu[003-006,9],login1", "gpu003"),
        ("rack-2-node[7,9-12]", "rack-2-node7"),
        ("n[1-2]-ib,n5", "n1-ib"),
    ],
)
def test_first_host(node_list: str, host: str) -> None:
    assert first_host(node_list) == host


@pytest.mark.parametrize("node_list", ["", "[1-2]", "h[", ",h1"])
def test_what_is_no_node_list_is_refused(node_list: str) -> None:
    with pytest.raises(UserError, match="MASTER_ADDR"):
        first_host(node_list)


def test_steps_beside_one_another_meet_on_different_ports() -> None:
    ports = [port_of_step(job, step) for job in range(50) for step in range(7)]
    assert len(set(ports)) == len(ports)
    assert all(FIRST_PORT <= port_of_step(job, 3) < FIRST_PORT + NUM_PORTS for job in (1, 10**6, 10**9 - 1))
