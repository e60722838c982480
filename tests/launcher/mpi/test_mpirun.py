"""Oracle: the manuals of the two kinds of mpirun, and what these did; ``tests/cluster/test_mpi.py`` runs them."""

import signal
import sys
from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.launcher.hostfile import Slots
from megalm.launcher.mpi.mpirun import Mpirun, handed_on, run
from tests.verify.runs import GPT2, run_file

HOSTS = [Slots("h1", 2), Slots("h2", 2)]
DANGEROUS = ["python", "a file; touch pwned", "$(touch pwned)"]


def test_mpich_gets_hosts_and_the_program_as_it_is() -> None:
    mpirun = Mpirun("/opt/mpirun", "mpich")
    begin = ["/opt/mpirun", "-n", "4"]
    assert mpirun.command(4, [], DANGEROUS, {}) == [*begin, *DANGEROUS]
    assert mpirun.command(4, HOSTS, DANGEROUS, {}) == [*begin, "-hosts", "h1:2,h2:2", *DANGEROUS]


def test_open_mpi_is_told_not_to_bind_and_what_other_machines_need() -> None:
    mpirun = Mpirun("/opt/mpirun", "openmpi")
    env = {"PATH": "/bin", "PYTHONPATH": "/x y", "NCCL_DEBUG": "INFO", "SECRET": "s"}
    here = mpirun.command(4, [], DANGEROUS, env)
    there = mpirun.command(4, HOSTS, DANGEROUS, env)
    assert here[:3] == there[:3] == ["/opt/mpirun", "-n", "4"]
    assert here[-3:] == there[-3:] == DANGEROUS
    assert there[there.index("--bind-to") + 1] == "none"
    assert there[there.index("--host") + 1] == "h1:2,h2:2"
    assert [there[at + 1] for at, word in enumerate(there) if word == "-x"] == ["NCCL_DEBUG", "PYTHONPATH"]
    assert "-x" not in here


def test_a_signal_that_would_kill_mpirun_becomes_one_that_asks_the_same() -> None:
    """Oracle: Open MPI's mpirun kills all ranks a second after SIGTERM, MPICH's dies of SIGUSR2 itself."""
    both = ["SIGTERM", "SIGUSR1"]
    assert handed_on(signal.SIGTERM, "mpich", both) == signal.SIGTERM
    assert handed_on(signal.SIGTERM, "openmpi", both) == signal.SIGUSR1
    assert handed_on(signal.SIGUSR2, "mpich", ["SIGUSR2", "SIGTERM"]) == signal.SIGTERM
    assert handed_on(signal.SIGTERM, "openmpi", ["SIGTERM"]) == signal.SIGTERM
    assert handed_on(signal.SIGINT, "openmpi", both) == signal.SIGINT


def test_what_is_no_mpirun_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "mpirun"
    script.write_text("#!/bin/sh\necho another program\n")
    with pytest.raises(UserError, match=r"cannot be run .Permission denied"):
        Mpirun.find(str(script))
    script.chmod(0o755)
    with pytest.raises(UserError, match="is not MPICH's or Open MPI's mpirun"):
        Mpirun.find(str(script))
    with pytest.raises(UserError, match=r"cannot be run .No such file"):
        Mpirun.find(str(tmp_path / "none"))


def test_without_an_mpirun_a_sentence_says_how_to_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no mpirun; .*megalm\[mpi\].*--mpirun"):
        Mpirun.find(None)


def test_a_layout_that_does_not_fit_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = run_file(GPT2, layout={"dp": 2, "tp": 2}, run={"dir": str(tmp_path / "run")})
    odd = [Slots("h1", 1), Slots("h2", 3)]
    for num_ranks, hosts, named in (
        (3, [], "there are 3"),
        (4, HOSTS[:1], "4 ranks are more"),
        (4, odd, "layout.tp=2"),
    ):
        with pytest.raises(UserError, match=named):
            run(config, ["run.yaml"], str(tmp_path / "none"), num_ranks, hosts)
    assert not (tmp_path / "run").exists()
