"""Hosts on one machine: each has its own network address, host name, processes and /run, joined by a bridge.

A host is a shell that is process 1 of its own namespaces; whoever runs a command "on" it enters them. Several sets of
hosts of the same names may be up at a time, and know nothing of one another. Needs root and Linux with iproute2.
"""

import fcntl
import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

BRIDGE = "br0"
LOCKS = Path("/run/lock")
"""Has a file for each set of hosts, ``megalm-hosts-0``, which is held as long as they are up."""
INIT = """
hostname {name}
mount --bind {hosts} /etc/hosts
mount -t tmpfs tmpfs /run -o mode=755
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/cgroups
mount --rbind /sys/fs/cgroup /run/cgroups
mount -t sysfs sysfs /sys
mount --rbind /run/cgroups /sys/fs/cgroup
echo 'hosts: files' > /run/nsswitch
mount --bind /run/nsswitch /etc/nsswitch.conf
mkdir -p /run/sshd /run/munge
mkdir -p /etc/slurm
mount --bind {slurm} /etc/slurm
touch /run/booted
trap : TERM
while :; do sleep 1000 & wait; done
"""


def sh(*command: str) -> None:
    """Run a command of this machine.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


class Site(NamedTuple):
    """What the hosts of a set have in common.

    Args:
        prefix: of the names of their networks, which this machine sees.
        folder: for files that they see in the place of this machine's.
    """

    prefix: str
    folder: Path

    def net(self, name: str) -> str:
        """Return the name of a host's network."""
        return f"{self.prefix}-{name}"

    @property
    def switch(self) -> str:
        """The network that has the bridge."""
        return self.net("switch")

    @property
    def table(self) -> Path:
        """The file that names all hosts: their ``/etc/hosts``."""
        return self.folder / "hosts"

    @property
    def slurm(self) -> Path:
        """Their ``/etc/slurm``."""
        return self.folder / "slurm"


class Host:
    """One host.

    Args:
        name: its host name.
        number: decides its address.
        site: of the set of hosts: the prefix of its networks' names, and a folder with what they share.
        rate: of its link, as tc writes it, for example ``1gbit``; ``None`` for no bound.
    """

    def __init__(self, name: str, number: int, site: "Site", rate: str | None) -> None:
        """Plug it in and boot it."""
        self.name, self.address = name, f"10.77.0.{10 + number}"
        self._site, self._net, self._port = site, site.net(name), f"p{number}"
        sh("ip", "netns", "add", self._net)
        peer = ("peer", "name", self._port, "netns", site.switch)
        sh("ip", "link", "add", "eth0", "netns", self._net, "type", "veth", *peer)
        sh("ip", "-n", site.switch, "link", "set", self._port, "master", BRIDGE, "up")
        sh("ip", "-n", self._net, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            sh("ip", "-n", self._net, "link", "set", link, "up")
        if rate is not None:
            shape = ("tbf", "rate", rate, "burst", "256kb", "latency", "20ms")
            sh("ip", "netns", "exec", self._net, "tc", "qdisc", "replace", "dev", "eth0", "root", *shape)
        self.boot()

    def boot(self) -> None:
        """Start it; a host that was powered off begins anew."""
        init = INIT.format(name=self.name, hosts=self._site.table, slurm=self._site.slurm)
        namespaces = ("--uts", "--ipc", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")
        self._unshare = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self._net}", "unshare", *namespaces, "bash", "-ec", init],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + 10
        while time.monotonic() < end:
            children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
            if children:
                self._pid = int(children[0])
                if self.run("test", "-e", "/run/booted").returncode == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"host {self.name} did not boot within 10 s")

    def power_off(self) -> None:
        """End all its processes at once."""
        os.kill(self._pid, signal.SIGKILL)
        self._unshare.wait()

    def unplug(self) -> None:
        """Take its network cable out."""
        sh("ip", "-n", self._site.switch, "link", "set", self._port, "down")

    def plug(self) -> None:
        """Put its network cable in again."""
        sh("ip", "-n", self._site.switch, "link", "set", self._port, "up")

    def command(self, *command: str) -> list[str]:
        """Return what runs a command on this host, in the directory of whoever runs it."""
        return ["nsenter", "-t", str(self._pid), "-n", "-u", "-i", "-p", "-m", f"--wd={os.getcwd()}", *command]

    def run(self, *command: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command on this host and return how it ended."""
        return subprocess.run(self.command(*command), capture_output=True, text=True, **options)

    def start(self, *command: str, env: Mapping[str, str] | None = None, **options: Any) -> "subprocess.Popen[str]":
        """Start a command on this host."""
        return subprocess.Popen(self.command(*command), env=env, text=True, **options)


class Hosts:
    """A few hosts and the switch between them.

    Args:
        names: of the hosts.
        rate: of each link; see ``Host``.
    """

    def __init__(self, names: Sequence[str], rate: str | None = None) -> None:
        """See the class."""
        self._names, self._rate = names, rate
        self._hosts: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        """Return a host."""
        return self._hosts[name]

    def __enter__(self) -> "Hosts":
        """Boot all."""
        self._folder = tempfile.TemporaryDirectory(prefix="megalm-hosts-")
        self._lock, number = _first_free()
        self.site = Site(f"megalm{number}", Path(self._folder.name))
        self.site.slurm.mkdir()
        lines = ["127.0.0.1 localhost", *(f"10.77.0.{10 + n} {name}" for n, name in enumerate(self._names))]
        self.site.table.write_text("\n".join(lines) + "\n")
        self._clean()
        switch = self.site.switch
        sh("ip", "netns", "add", switch)
        sh("ip", "-n", switch, "link", "add", BRIDGE, "type", "bridge")
        for link in (BRIDGE, "lo"):
            sh("ip", "-n", switch, "link", "set", link, "up")
        try:
            for number, name in enumerate(self._names):
                self._hosts[name] = Host(name, number, self.site, self._rate)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Power all off, and take the switch away."""
        for host in self._hosts.values():
            if host.run("true").returncode == 0:
                host.power_off()
        self._clean()
        self._folder.cleanup()
        self._lock.close()

    def _clean(self) -> None:
        """Take away the networks, also those that a killed run has left behind."""
        present = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
        for name in present:
            if name.startswith(self.site.net("")):
                sh("ip", "netns", "del", name)


def _first_free() -> tuple[TextIO, int]:
    """Return the lock of the first set of hosts that is not up, and its number."""
    for number in itertools.count():
        lock = (LOCKS / f"megalm-hosts-{number}").open("w")
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock, number
        lock.close()
    raise AssertionError("numbers do not end")
