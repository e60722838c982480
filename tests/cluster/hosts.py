"""Hosts on one machine: each has its own network address, host name, processes and /run, joined by a bridge.

A host is a shell that is process 1 of its own namespaces; whoever runs a command "on" it enters them. Needs root and
Linux with iproute2.
"""

import fcntl
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

SWITCH, BRIDGE = "megalm-switch", "br0"
LOCK = Path("/run/lock/megalm-hosts")
"""Held as long as hosts are up: their names, and Slurm's folders, are there once on a machine."""
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


class Host:
    """One host.

    Args:
        name: its host name, and that of its network.
        number: decides its address.
        hosts: the file that names all hosts.
        rate: of its link, as tc writes it, for example ``1gbit``; ``None`` for no bound.
    """

    def __init__(self, name: str, number: int, hosts: Path, rate: str | None) -> None:
        """Plug it in and boot it."""
        self.name, self.address = name, f"10.77.0.{10 + number}"
        self._hosts, self._port = hosts, f"megalm-p{number}"
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", self._port, "netns", SWITCH)
        sh("ip", "-n", SWITCH, "link", "set", self._port, "master", BRIDGE, "up")
        sh("ip", "-n", name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            sh("ip", "-n", name, "link", "set", link, "up")
        if rate is not None:
            shape = ("tbf", "rate", rate, "burst", "256kb", "latency", "20ms")
            sh("ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", "eth0", "root", *shape)
        self.boot()

    def boot(self) -> None:
        """Start it; a host that was powered off begins anew."""
        init = INIT.format(name=self.name, hosts=self._hosts)
        namespaces = ("--uts", "--ipc", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")
        self._unshare = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.name}", "unshare", *namespaces, "bash", "-ec", init],
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
        sh("ip", "-n", SWITCH, "link", "set", self._port, "down")

    def plug(self) -> None:
        """Put its network cable in again."""
        sh("ip", "-n", SWITCH, "link", "set", self._port, "up")

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
        """Boot all; hosts of another process are waited for."""
        self._lock = LOCK.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._folder = tempfile.TemporaryDirectory(prefix="megalm-hosts-")
        table = Path(self._folder.name) / "hosts"
        lines = ["127.0.0.1 localhost", *(f"10.77.0.{10 + n} {name}" for n, name in enumerate(self._names))]
        table.write_text("\n".join(lines) + "\n")
        self._clean()
        sh("ip", "netns", "add", SWITCH)
        sh("ip", "-n", SWITCH, "link", "add", BRIDGE, "type", "bridge")
        for link in (BRIDGE, "lo"):
            sh("ip", "-n", SWITCH, "link", "set", link, "up")
        try:
            for number, name in enumerate(self._names):
                self._hosts[name] = Host(name, number, table, self._rate)
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
        for name in (SWITCH, *self._names):
            if name in present:
                sh("ip", "netns", "del", name)
