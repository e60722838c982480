"""A run that ``megalm launch ssh`` starts on one host, with its ranks on others."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from megalm.launcher.job import FILE, Job
from tests.cluster.ssh import Ssh
from tests.training.test_kills import ROOT

PROCESSES = "-m megalm (train|node|launch)"


class SshRun:
    """One launch.

    Args:
        ssh: the hosts.
        run_file: what runs.
        run_dir: where.
        told: the file that has what it says.
        more: options and overrides.
        on: the host of the launcher.
        slots: of each host with ranks.
    """

    def __init__(
        self, ssh: Ssh, run_file: Path, run_dir: Path, told: Path, *more: str, slots: str = "h1 slots=2\nh2 slots=2\n"
    ) -> None:
        """Start it."""
        self._ssh, self._told, self._run_dir = ssh, told, run_dir
        hostfile = told.with_suffix(".hosts")
        hostfile.write_text(slots)
        (run_dir / FILE).unlink(missing_ok=True)
        launch = [sys.executable, "-m", "megalm", "launch", "ssh", f"--hostfile={hostfile}", f"--ssh={ssh.program}"]
        with told.open("w") as file:
            self.process = ssh["h0"].start(
                *launch, str(run_file), f"run.dir={run_dir}", *more, cwd=ROOT, stdout=file, stderr=file
            )

    @property
    def told(self) -> str:
        """What it has said so far."""
        return self._told.read_text()

    @property
    def job(self) -> str:
        """The launcher's process id on its host."""
        self.until(lambda: Job.read(self._run_dir) is not None)
        job = Job.read(self._run_dir)
        assert job is not None
        assert (job.launcher, job.host) == ("ssh", "h0"), json.dumps(job.__dict__)
        return job.id

    def until(self, done: Callable[[], bool], seconds: float = 90) -> None:
        """Return when something holds."""
        end = time.monotonic() + seconds
        while not done():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.told}"
            assert time.monotonic() < end, f"after {seconds:g} s:\n{self.told}"
            time.sleep(0.01)

    def signal(self, name: str) -> None:
        """Signal the launcher."""
        assert self._ssh["h0"].run("kill", f"-{name}", self.job).returncode == 0

    def end(self, seconds: float = 120) -> int:
        """Wait for it, and return its exit code."""
        return self.process.wait(timeout=seconds)


def processes(ssh: Ssh, host: str) -> list[str]:
    """Return megalm's processes on a host: id and command."""
    found = ssh[host].run("pgrep", "-a", "-f", "--", PROCESSES).stdout.splitlines()
    return [line for line in found if "pgrep" not in line and "nsenter" not in line]


def ranks(ssh: Ssh, host: str) -> list[str]:
    """Return the process ids of the ranks on a host."""
    return [line.split()[0] for line in processes(ssh, host) if " train " in line]


def wait_until_gone(ssh: Ssh, seconds: float) -> None:
    """Return when no process of megalm is left on any host.

    Raises:
        AssertionError: some are, in the end.
    """
    end = time.monotonic() + seconds
    while (left := [line for host in ("h0", "h1", "h2") for line in processes(ssh, host)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []
