"""Oracle: the losses and the last checkpoint of a run that nothing happened to, bit for bit.

One run on two hosts, by ssh, meets faults in a random order at random steps. It is started again by itself, and by hand
where its launcher was killed.
"""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

import pytest

from megalm.training import metrics
from tests.cluster import ssh as programs
from tests.cluster.conftest import skip_without
from tests.cluster.hosts import Hosts
from tests.cluster.ssh import Ssh
from tests.cluster.ssh_run import SshRun, ranks, wait_until_gone
from tests.reference import Reference
from tests.small_disk import fill, small_disk
from tests.training.test_kills import check_values, losses, newest_of, processes_of, saves_begun, steps_done

FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
FAULTS = 20 if FULL else 8
LAYOUTS = [{"dp": 2}, {"dp": 2}, {"dp": 2, "tp": 2}] if FULL else [{"dp": 2}]
MOST_STEPS_BETWEEN = 10
STEPS = (FAULTS + 1) * MOST_STEPS_BETWEEN
LINK_TIMEOUT_S = 6
OPTIONS = (f"--link-timeout={LINK_TIMEOUT_S}", "run.max_restarts=100", "run.timeout=15")
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


class Chaos:
    """One run and what happens to it.

    Args:
        stage: where.
        path: its run file.
        num_ranks: half of them on each host.
        folder: for what the launchers say.
        chance: decides.
    """

    def __init__(self, stage: Stage, path: Path, num_ranks: int, folder: Path, chance: random.Random) -> None:
        self.ssh, self.disk, self.path, self.folder, self.chance = stage.ssh, stage.disk, path, folder, chance
        self.num_ranks = num_ranks
        self.run_dir = stage.disk / "run"
        self.launches, self.furthest, self.note = 0, 0, ""
        self.launch()

    def launch(self) -> None:
        self.launches += 1
        told = self.folder / f"launch-{self.launches}"
        slots = "".join(f"{host} slots={self.num_ranks // 2}\n" for host in ("h1", "h2"))
        self.launcher = SshRun(self.ssh, self.path, self.run_dir, told, *OPTIONS, slots=slots)

    def ranks(self) -> list[int]:
        """Return the process ids of the ranks, as this machine counts processes."""
        return sorted(pid for pid in processes_of(self.run_dir) if b"train" in words(pid))

    def until(self, done: Callable[[], bool], seconds: float = RESTARTED_S) -> None:
        self.launcher.until(done, seconds)

    def train(self) -> int:
        """Let the run make a few steps more than it has made so far, and return the newest."""
        target = max(self.furthest, steps_done(self.run_dir)) + self.chance.randint(2, MOST_STEPS_BETWEEN - 1)
        self.until(lambda: steps_done(self.run_dir) >= target)
        self.until(lambda: len(self.ranks()) == self.num_ranks)
        self.furthest = steps_done(self.run_dir)
        return self.furthest

    def happens(self, fault: str) -> None:
        """Let a fault happen, and return when it was answered: by the line that says so, or by hand."""
        self.note = ""
        cause, said = FAULTS_BY_NAME[fault]
        before = self.restarts()
        mend = cause(self)
        if said is not None:
            self.until(lambda: len(self.restarts()) > len(before))
            assert re.search(said, self.restarts()[len(before)]), self.restarts()
        mend()

    def restarts(self) -> list[str]:
        """Return the lines in which the launcher said why it starts the run again."""
        return [line for line in self.launcher.told.splitlines() if line.startswith("megalm: restart ")]


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
    name = chaos.chance.choice(["h1", "h2"])
    chaos.ssh[name].unplug()

    def mend() -> None:
        """Nobody can reach the host: it must have ended its ranks by itself."""
        chaos.until(lambda: not ranks(chaos.ssh, name), GONE_S)
        chaos.ssh[name].plug()

    return mend


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


KILLED = r"rank \d \(process \d+ on h\d\) was ended by SIGKILL"
LOST = r"host h\d \(ranks? .*\) was lost: "
FAULTS_BY_NAME: dict[str, tuple[Callable[[Chaos], Mend], str | None]] = {
    "kill -9 of a rank": (killed_rank, KILLED),
    "kill -9 of a rank during a save": (killed_while_saving, KILLED),
    "SIGSTOP of a rank": (stopped_rank, r"rank \d \(process \d+ on h\d\) is stopped"),
    "cut link": (cut_link, f"{LOST}nothing was heard of it for {LINK_TIMEOUT_S} s"),
    "full disk": (full_disk, "No space left on device"),
    "kill -9 of the launcher": (killed_launcher, None),
    "power-off of a host": (power_off, f"{LOST}its connection was closed"),
}
"""What happens, and what is said of it: nothing by a launcher that is gone."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_faults_lose_nothing(stage: Stage, tmp_path: Path, layout: dict[str, int]) -> None:
    """The table of the model is so large that each save has something to do."""
    checkpoint = {"every": 3, "async": True}
    run = Reference.make(tmp_path, STEPS, seconds=300, layout=layout, model={"vocab_size": 4096}, checkpoint=checkpoint)
    seed = int(os.environ.get("MEGALM_CHAOS_SEED", random.randrange(10**6)))
    print(f"seed {seed} (MEGALM_CHAOS_SEED={seed} has the same faults again)")
    chance = random.Random(seed)
    names = list(FAULTS_BY_NAME)
    faults = [*names * (FAULTS // len(names)), *chance.choices(names[:2], k=FAULTS % len(names))]
    chance.shuffle(faults)
    chaos = Chaos(stage, run.path, prod(layout.values()), tmp_path, chance)
    for index, fault in enumerate(faults, 1):
        step = chaos.train()
        began = time.monotonic()
        chaos.happens(fault)
        print(
            f"fault {index} after step {step}: {fault}{chaos.note}; answered in {time.monotonic() - began:.1f} s",
            flush=True,
        )
    assert chaos.launcher.end(seconds=300) == 0, chaos.launcher.told
    assert "Traceback" not in chaos.launcher.told
    assert losses(chaos.run_dir) == run.losses
    assert [row["step"] for row in metrics.rows(chaos.run_dir / "metrics.jsonl")] == list(range(1, STEPS + 1))
    newest = newest_of(chaos.run_dir)
    assert newest is not None
    assert newest.step == STEPS
    check_values(newest, run.run_dir)
    wait_until_gone(stage.ssh, GONE_S)
    subprocess.run(["rm", "-r", chaos.run_dir], check=True)
