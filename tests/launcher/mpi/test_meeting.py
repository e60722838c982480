"""Oracle: what MPICH's own mpirun says it started, and networks laid out by hand."""

import importlib.util
import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megalm.launcher.mpi.meeting import reachable, wanted
from megalm.launcher.network import Interface
from megalm.launcher.placement import Placement

ROOT = Path(__file__).parents[3]
MPIRUN = Path(sys.executable).parent / "mpirun"
needs_mpi = pytest.mark.skipif(
    not MPIRUN.exists() or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and MPICH's mpirun: pip install -c constraints.txt -e .[mpi]",
)
RANK = """
import json, os, signal, sys, time
from megalm.errors import UserError
from megalm.launcher.mpi.meeting import agreed
from megalm.launcher.placement import from_environment
placement = from_environment(os.environ)
with agreed(placement, os.environ) as placed:
    if placed.rank == 1 and sys.argv[1] == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    if sys.argv[1] != "ends":
        raise UserError(f"rank {placed.rank} has had enough.")
    time.sleep(0.1)
    os.write(1, json.dumps([*placed.__dict__.values()]).encode() + b"\\n")  # in one piece: mpirun mixes those of all
"""


def mpirun(end: str, size: int = 3) -> "subprocess.CompletedProcess[str]":
    command = [str(MPIRUN), "-n", str(size), sys.executable, "-c", RANK, end]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


@needs_mpi
def test_the_ranks_of_mpirun_agree_on_a_socket_that_rank_0_has() -> None:
    done = mpirun("ends")
    assert done.returncode == 0, done.stderr
    ranks = sorted(json.loads(line) for line in done.stdout.splitlines() if line)
    assert [rank[:4] for rank in ranks] == [[0, 3, 0, 3], [1, 3, 1, 3], [2, 3, 2, 3]]
    assert {(rank[4], rank[6]) for rank in ranks} == {("127.0.0.1", "mpich")}
    assert len({rank[5] for rank in ranks}) == 1
    assert ranks[0][5] > 0
    assert [rank[7] is None for rank in ranks] == [False, True, True]


@needs_mpi
def test_a_rank_that_fails_ends_all_after_they_said_why() -> None:
    """Oracle: the exit code of a sentence for the user, and a stopped process, which cannot end by itself."""
    done = mpirun("stops")
    assert done.returncode == 2
    assert "rank 0 has had enough." in done.stderr
    assert "rank 2 has had enough." in done.stderr


MPICH = {"PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "4"}


def refusal(env: dict[str, str]) -> str:
    """Return what a rank says that no mpirun stands behind."""
    done = subprocess.run(
        [sys.executable, "-c", RANK, "ends"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    return done.stderr


@needs_mpi
def test_an_mpi_that_did_not_start_the_ranks_never_makes_a_world_of_one() -> None:
    """Oracle: what Open MPI says of each rank under ``srun --mpi=none``: that it is rank 0 of 1; MPICH does so too."""
    said = refusal(MPICH)
    assert "mpich started 4 ranks, but mpi4py sees 1 of them through MPICH Version" in said


def test_without_mpi4py_a_sentence_says_what_to_install_or_set(tmp_path: Path) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('No module named mpi4py')\n")
    said = refusal({**MPICH, "PYTHONPATH": str(tmp_path)})
    assert "mpirun without MASTER_ADDR and MASTER_PORT needs mpi4py" in said
    assert "pip install 'megalm[mpi]'" in said


def test_mpi_is_asked_only_where_nothing_else_tells_the_meeting_place() -> None:
    told = Placement(0, 4, 0, 2, "h0", 29500, "mpich")
    untold = Placement(0, 4, 0, 2, "", 0, "mpich")
    slurm = Placement(0, 4, 0, 2, "h0", 27000, "slurm")
    assert not wanted(told, {})
    assert wanted(untold, {})
    assert not wanted(Placement.alone(), {})
    assert not wanted(slurm, {})
    assert not wanted(slurm, {"PMI_SIZE": "4", "MASTER_ADDR": "h0", "MASTER_PORT": "1"})
    assert wanted(slurm, {"PMI_SIZE": "4"}) == (importlib.util.find_spec("mpi4py") is not None)


BRIDGE = "172.17.0.1/16"
"""What a container engine gives every machine."""


@pytest.mark.parametrize(
    ("own", "others", "found"),
    [
        (["10.0.0.1/24"], [["10.0.0.2"]], "10.0.0.1"),
        ([BRIDGE, "10.0.0.1/24"], [["172.17.0.1", "10.0.0.2"]], "10.0.0.1"),
        (["192.168.1.5/24", "10.0.0.1/24"], [["10.0.0.2"], ["10.0.0.3", "192.168.1.6"]], "10.0.0.1"),
        (["10.0.0.1/24", "10.1.0.1/24"], [["10.0.0.2", "10.1.0.2"]], "10.0.0.1"),
        ([BRIDGE], [["172.17.0.1"]], None),
        (["192.0.2.1/32"], [["127.0.0.9"]], None),
        ([], [["10.0.0.2"]], None),
    ],
)
def test_the_ranks_meet_in_the_network_that_most_of_them_share(
    own: list[str], others: list[list[str]], found: str | None
) -> None:
    here = [Interface(f"eth{number}", *parts(text)) for number, text in enumerate(own)]
    theirs = [[one.address for one in here], *([ipaddress.ip_address(text) for text in row] for row in others)]
    assert reachable(here, theirs) == (None if found is None else ipaddress.ip_address(found))


def parts(text: str) -> tuple[ipaddress.IPv4Address, int]:
    network = ipaddress.IPv4Interface(text)
    return network.ip, network.network.prefixlen
