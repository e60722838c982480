"""A real Slurm: a controller on the first host, a slurmd on each of the others, each with four pretended GPUs."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.cluster.hosts import Host, Hosts, sh

NUM_GPUS = 4
CONFIGURATION = """
ClusterName=megalm
SlurmctldHost={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=6
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
TmpFS={folder}/tmp/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=5
KillWait=30
MinJobAge=600
NodeName={nodes} CPUs={cpus} RealMemory=2000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=60:00 DefaultTime=10 State=UP
"""
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip")


class Slurm:
    """Slurm over some hosts.

    Args:
        hosts: booted.
        controller: the name of the host of slurmctld, where jobs are submitted.
        nodes: the names of the hosts that compute.
        cpus: of each node, as Slurm counts them.
    """

    def __init__(self, hosts: Hosts, controller: str, nodes: list[str], cpus: int = 4) -> None:
        """See the class."""
        self._hosts, self.controller, self._nodes, self._cpus = hosts, hosts[controller], nodes, cpus

    def __enter__(self) -> "Slurm":
        """Start the daemons and wait until all nodes are idle."""
        self._folder = Path(tempfile.mkdtemp(prefix="megalm-slurm-"))
        for name in ("state", "spool", "tmp", "dev"):
            (self._folder / name).mkdir()
        devices = [self._folder / "dev" / f"nvidia{number}" for number in range(NUM_GPUS)]
        for device in devices:
            os.mknod(device, 0o20666, os.makedev(1, 3))  # as /dev/null
        text = CONFIGURATION.format(
            controller=self.controller.name,
            folder=self._folder,
            nodes=",".join(self._nodes),
            cpus=self._cpus,
            gpus=NUM_GPUS,
        )
        etc = self._hosts.site.slurm
        (etc / "slurm.conf").write_text(text.lstrip())
        (etc / "gres.conf").write_text(f"Name=gpu File={self._folder}/dev/nvidia[0-{NUM_GPUS - 1}]\n")
        key = Path("/etc/munge/munge.key")
        if not key.exists():
            sh("/usr/sbin/mungekey", "--create")
        shutil.chown(key, "munge", "munge")
        for host in (self.controller, *(self._hosts[name] for name in self._nodes)):
            self._start_munge(host)
        self._must(self.controller, "slurmctld")
        for name in self._nodes:
            self.start_node(name)
        self.wait_until_idle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all jobs; the daemons end with their hosts."""
        self.controller.run("scancel", "--user=root", "--signal=KILL", "--full")
        self.controller.run("pkill", "-9", "slurmctld")
        for name in self._nodes:
            self._hosts[name].run("pkill", "-9", "slurmd")
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_node(self, name: str) -> None:
        """Start the slurmd of a host, of one that was booted anew too."""
        host = self._hosts[name]
        for folder in ("spool", "tmp"):
            (self._folder / folder / name).mkdir(exist_ok=True)
        if host.run("pgrep", "munged").returncode:
            self._start_munge(host)
        self._must(host, "slurmd")

    def power_off(self, name: str) -> None:
        """End all processes of a node's host at once."""
        self._hosts[name].power_off()

    def boot(self, name: str) -> None:
        """Start a node's host anew, with its slurmd."""
        self._hosts[name].boot()
        self.start_node(name)

    def wait_until_idle(self, seconds: float = 20.0) -> None:
        """Return when every node is idle.

        Raises:
            RuntimeError: they are not in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            states = self.controller.run("sinfo", "--noheader", "--Node", "--format=%T").stdout.split()
            if states == ["idle"] * len(self._nodes):
                return
            time.sleep(0.1)
        raise RuntimeError(f"the nodes are {states}, not idle, after {seconds:g} s")

    def state_of(self, job: str) -> str:
        """Return a job's state, in Slurm's words."""
        told = self.controller.run("scontrol", "show", "job", job, "--oneliner").stdout
        return dict(word.split("=", 1) for word in told.split() if "=" in word).get("JobState", "GONE")

    def wait_for(self, job: str, states: set[str], seconds: float) -> str:
        """Return a job's state as soon as it is one of ``states``.

        Raises:
            TimeoutError: it is not in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.state_of(job)
            if state in states:
                return state
            time.sleep(0.2)
        raise TimeoutError(f"job {job} is {state} after {seconds:g} s, none of {sorted(states)}")

    def _start_munge(self, host: Host) -> None:
        self._must(host, "chown", "munge:munge", "/run/munge")
        daemon = ("/usr/sbin/munged", "--log-file=/run/munge/log", "--seed-file=/run/munge/seed")
        who = ("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups")
        self._must(host, *who, *daemon, "--pid-file=/run/munge/munged.pid")

    def _must(self, host: Host, *command: str) -> None:
        done = host.run(*command, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} on {host.name} failed:\n{done.stdout}{done.stderr}")
