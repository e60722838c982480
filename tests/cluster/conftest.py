"""The programs of these tests: what lacks is named, and a test that needs it is left out."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cluster import slurm as slurm_programs
from tests.cluster import ssh as ssh_programs
from tests.cluster.hosts import Hosts
from tests.cluster.slurm import Slurm
from tests.cluster.ssh import Ssh
from tests.reference import Reference

STEPS, PAIR_STEPS = 40, 300
"""Of the runs that tests share; the second is cheap, and lasts while nodes go."""
SECTIONS = {"run": {"timeout": 60}, "checkpoint": {"every": 10, "before_limit": 20}}
SEARCHED = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def skip_without(programs: Sequence[str], packages: str) -> None:
    """Leave a test out, and say why, where hosts or programs cannot be had."""
    lacking = [name for name in programs if shutil.which(name, path=SEARCHED) is None]
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}: apt-get install {packages}")
    if os.geteuid() != 0:
        pytest.skip("needs root, to make hosts with networks of their own")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """Two nodes of four processors and four pretended GPUs each, and a host to submit from."""
    skip_without(slurm_programs.PROGRAMS, "slurmctld slurmd slurm-client munge iproute2")
    with Hosts(["h0", "h1", "h2"]) as hosts, Slurm(hosts, "h0", ["h1", "h2"]) as running:
        yield running


@pytest.fixture(scope="module")
def ssh() -> Iterator[Ssh]:
    """Two hosts that take ssh, h1 and h2, and one to call from, h0."""
    skip_without(ssh_programs.PROGRAMS, "openssh-server openssh-client iproute2")
    with Hosts(["h0", "h1", "h2"]) as hosts, Ssh(hosts, ["h1", "h2"]) as running:
        yield running


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return a folder of all processes that run tests at once."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def reference(shared: Path) -> Reference:
    """Return a short run of four ranks, dp=2 and tp=2, which megalm's own launcher has done on this machine."""
    return Reference.once(shared / "reference", STEPS, seconds=300, **SECTIONS)


@pytest.fixture(scope="session")
def pair(shared: Path) -> Reference:
    """Return the same run with two ranks, dp=2."""
    return Reference.once(shared / "pair", PAIR_STEPS, seconds=300, layout={"dp": 2}, **SECTIONS)
