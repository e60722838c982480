"""A real sshd on each of some hosts, with keys made for the test, and the ssh that knows them."""

import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.cluster.hosts import Host, Hosts, sh

PROGRAMS = ("sshd", "ssh", "ssh-keygen", "ip")
SERVER = """
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
MaxStartups 100
"""
CLIENT = """
Host *
User root
IdentityFile {folder}/user
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
StrictHostKeyChecking yes
"""


class Ssh:
    """An sshd on each host.

    Args:
        hosts: booted.
        names: of those that get an sshd.
    """

    def __init__(self, hosts: Hosts, names: list[str]) -> None:
        """See the class."""
        self._hosts, self._names = hosts, names

    def __getitem__(self, name: str) -> Host:
        """Return a host, of those without an sshd too."""
        return self._hosts[name]

    def __enter__(self) -> "Ssh":
        """Make the keys and start the daemons."""
        self.folder = Path(tempfile.mkdtemp(prefix="megalm-ssh-"))
        for key in ("host", "user"):
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", str(self.folder / key))
        words = " ".join((self.folder / "host.pub").read_text().split()[:2])
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.write_text("".join(f"{n},{self._hosts[n].address} {words}\n" for n in self._names))
        self._config = self.folder / "config"
        self._config.write_text(CLIENT.format(folder=self.folder).lstrip())
        self.program = self.folder / "ssh"
        """An ssh that reaches the hosts, in one word."""
        self.program.write_text(f'#!/bin/sh\nexec ssh -F {self._config} "$@"\n')
        self.program.chmod(0o755)
        (self.folder / "sshd_config").write_text(SERVER.format(folder=self.folder).lstrip())
        for name in self._names:
            self.start_host(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the keys away; the daemons end with their hosts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_host(self, name: str) -> None:
        """Start the sshd of a host, of one that was booted anew too, and wait until it answers."""
        host = self._hosts[name]
        done = host.run("/usr/sbin/sshd", "-f", str(self.folder / "sshd_config"))
        end = time.monotonic() + 10
        while done.returncode == 0 and time.monotonic() < end:
            if host.run(str(self.program), "-o", "BatchMode=yes", name, "true").returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError(f"sshd on {name} does not answer:\n{done.stdout}{done.stderr}")
