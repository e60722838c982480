"""The programs of these tests: what lacks is named, and a test that needs it is left out."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.cluster.hosts import Hosts
from tests.cluster.slurm import PROGRAMS, Slurm

SEARCHED = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """Two nodes of four processors and four pretended GPUs each, and a host to submit from."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}: apt-get install slurmctld slurmd slurm-client munge iproute2")
    if os.geteuid() != 0:
        pytest.skip("needs root, to make hosts with networks of their own")
    with Hosts(["h0", "h1", "h2"]) as hosts, Slurm(hosts, "h0", ["h1", "h2"]) as running:
        yield running
