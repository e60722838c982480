"""Oracle: the losses and the last checkpoint of a run that nothing happened to, bit for bit.

One run of four ranks on two hosts, by ssh, meets faults in a random order at random steps. It is started again by
itself, and by hand where its launcher was killed.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from megalm.training import metrics
from tests.cluster import ssh as programs
from tests.cluster.conftest import skip_without
from tests.cluster.hosts import Hosts
from tests.cluster.ssh import Ssh
from tests.cluster.ssh_run import SshRun, wait_until_gone
from tests.reference import Reference
from tests.small_disk import fill, small_disk
from tests.training.test_kills import check_values, losses, newest_of, processes_of, saves_begun, steps_done

FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
FAULTS, SEEDS = (20, 3) if FULL else (8, 1)
MOST_STEPS_BETWEEN = 10
STEPS = (FAULTS + 1) * MOST_STEPS_BETWEEN
OPTIONS = ("--link-timeout=8", "run.max_restarts=100", "run.timeout=20")
RESTARTED_S = 180.0
"""For a fault to be noticed and answered, on a busy machine; run.timeout is part of it."""
GONE_S = 10.0


class Stage(NamedTuple):
    """Where the faults happen.

    Args:
        ssh: the hosts.
        disk: the file system of the run directory, which is soon full.
    """

    ssh: Ssh
    disk: Path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Mount the disk first: a host sees what was mounted when it booted."""
    skip_without(programs.PROGRAMS, "openssh-server openssh-client iproute2")
    with (
        small_disk(tmp_path_factory.mktemp("chaos") / "disk", mib=32) as disk,
        Hosts(["h0", "h1", "h2"]) as hosts,
        Ssh(hosts, ["h1", "h2"]) as ssh,
    ):
        yield Stage(ssh, disk)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return a run whose large table gives each save something to do, done undisturbed."""
    checkpoint = {"every": 3, "async": True}
    return Reference.make(
        tmp_path_factory.mktemp("undisturbed"), STEPS, seconds=300, model={"vocab_size": 4096}, checkpoint=checkpoint
    )


class Chaos:
    """One run and what happens to it.

    Args:
        stage: where.
        path: its run file.
        chance: decides.
    """

    def __init__(self, stage: Stage, path: Path, folder: Path, chance: random.Random) -> None:
        self.ssh, self.disk, self.path, self.folder, self.chance = stage.ssh, stage.disk, path, folder, chance
        self.run_dir = stage.disk / "run"
        self.launches, self.furthest, self.note = 0, 0, ""
        self.launch()

    def launch(self) -> None:
        self.launches += 1
        told = self.folder / f"launch-{self.launches}"
        self.launcher = SshRun(self.ssh, self.path, self.run_dir, told, *OPTIONS)

    def ranks(self) -> list[int]:
        """Return the process ids of the ranks, as this machine counts processes."""
        return sorted(pid for pid in processes_of(self.run_dir) if b"train" in words(pid))

    def until(self, done: Callable[[], bool], seconds: float = RESTARTED_S) -> None:
        self.launcher.until(done, seconds)

    def train(self) -> int:
        """Let the run make a few steps more than it has made so far, and return the newest."""
        target = max(self.furthest, steps_done(self.run_dir)) + self.chance.randint(2, MOST_STEPS_BETWEEN - 1)
        self.until(lambda: steps_done(self.run_dir) >= target)
        self.until(lambda: len(self.ranks()) == 4)
        self.furthest = steps_done(self.run_dir)
        return self.furthest

    def happens(self, fault: str) -> None:
        """Let a fault happen, and return when it was answered."""
        self.note = ""
        restarts = self.launcher.told.count("megalm: restart ")
        mend = FAULTS_BY_NAME[fault](self)
        if fault != "kill -9 of the launcher":
            self.until(lambda: self.launcher.told.count("megalm: restart ") > restarts)
        mend()


Mend = Callable[[], object]


def words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def killed_rank(chaos: Chaos) -> Mend:
    os.kill(chaos.chance.choice(chaos.ranks()), signal.SIGKILL)
    return lambda: None


def killed_while_saving(chaos: Chaos) -> Mend:
    before = saves_begun(chaos.run_dir).keys()
    chaos.until(lambda: not saves_begun(chaos.run_dir).keys() <= before)
    saving = saves_begun(chaos.run_dir).keys() - before
    killed_rank(chaos)

    def mend() -> None:
        left = [name for name in saving if not (chaos.run_dir / "checkpoints" / f"step-{name.split('-')[1]}").exists()]
        chaos.note = f" (cut off: {', '.join(left) or 'none, the save had ended'})"

    return mend


def stopped_rank(chaos: Chaos) -> Mend:
    victim = chaos.chance.choice(chaos.ranks())
    os.kill(victim, signal.SIGSTOP)

    def mend() -> None:
        assert victim not in chaos.ranks(), "the stopped rank was not ended"

    return mend


def cut_link(chaos: Chaos) -> Mend:
    host = chaos.ssh[chaos.chance.choice(["h1", "h2"])]
    host.unplug()
    return host.plug


def full_disk(chaos: Chaos) -> Mend:
    return fill(chaos.disk).unlink


def killed_launcher(chaos: Chaos) -> Mend:
    chaos.launcher.signal("KILL")
    assert chaos.launcher.end() == -signal.SIGKILL
    wait_until_gone(chaos.ssh, GONE_S)
    return chaos.launch


def power_off(chaos: Chaos) -> Mend:
    name = chaos.chance.choice(["h1", "h2"])
    chaos.ssh[name].power_off()

    def mend() -> None:
        chaos.ssh[name].boot()
        chaos.ssh.start_host(name)

    return mend


FAULTS_BY_NAME: dict[str, Callable[[Chaos], Mend]] = {
    "kill -9 of a rank": killed_rank,
    "kill -9 of a rank during a save": killed_while_saving,
    "SIGSTOP of a rank": stopped_rank,
    "cut link": cut_link,
    "full disk": full_disk,
    "kill -9 of the launcher": killed_launcher,
    "power-off of a host": power_off,
}


@pytest.mark.parametrize("number", range(SEEDS))
def test_faults_lose_nothing(stage: Stage, run: Reference, tmp_path: Path, number: int) -> None:
    seed = int(os.environ.get("MEGALM_CHAOS_SEED", random.randrange(10**6)))
    print(f"seed {seed} (MEGALM_CHAOS_SEED={seed} has the same faults again)")
    chance = random.Random(seed)
    names = list(FAULTS_BY_NAME)
    faults = [*names * (FAULTS // len(names)), *chance.choices(names[:2], k=FAULTS % len(names))]
    chance.shuffle(faults)
    chaos = Chaos(stage, run.path, tmp_path, chance)
    for index, fault in enumerate(faults, 1):
        step = chaos.train()
        began = time.monotonic()
        chaos.happens(fault)
        print(
            f"fault {index} after step {step}: {fault}{chaos.note}; answered in {time.monotonic() - began:.1f} s",
            flush=True,
        )
    assert chaos.launcher.end(seconds=300) == 0, chaos.launcher.told
    assert losses(chaos.run_dir) == run.losses
    assert [row["step"] for row in metrics.rows(chaos.run_dir / "metrics.jsonl")] == list(range(1, STEPS + 1))
    newest = newest_of(chaos.run_dir)
    assert newest is not None
    assert newest.step == STEPS
    check_values(newest, run.run_dir)
    wait_until_gone(stage.ssh, GONE_S)
    subprocess.run(["rm", "-r", chaos.run_dir], check=True)
