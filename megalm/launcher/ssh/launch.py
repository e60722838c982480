"""``megalm launch ssh``: the ranks of a run on the machines of a hostfile, over ssh alone.

One ssh a machine starts ``megalm node`` there, which starts that machine's ranks and ends them when this launcher is
gone or out of reach. The first machine binds the socket on which all ranks meet.
"""

import os
import queue
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from megalm.errors import UserError
from megalm.launcher.conclusion import Outcome, conclude
from megalm.launcher.hostfile import Slots, fill
from megalm.launcher.job import Job
from megalm.launcher.local import Share
from megalm.launcher.look import Seen, clear_verdict, look, write_verdict
from megalm.launcher.nodes import check_nodes
from megalm.launcher.restarts import run_again
from megalm.launcher.signals import heard_by
from megalm.launcher.ssh.host import Event, SshHost
from megalm.launcher.ssh.words import Word, beat_s
from megalm.run_config import RunConfig
from megalm.watch.marker import clear_positions

PREFIXES = ("MEGALM_", "NCCL_", "GLOO_", "TORCH_", "UCX_", "WANDB_", "HF_")
NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_MAX_CONNECTIONS", "PYTHONPATH")
"""What of the environment is handed on; the rest is each machine's own."""
COME_S = 120.0
"""How long a machine that was connected may take to start Python."""
CLOSE_S = 10.0
"""For the machines that are in reach to end what runs there."""
MARGIN_S = 3.0
"""For what was on its way when a link was cut."""


class Means(NamedTuple):
    """How machines are reached, and what is handed on to their ranks.

    Args:
        ssh: the program, with options.
        directory: the working directory there.
        env: what the ranks get of the launcher's environment.
        link_timeout_s: a machine of which nothing was heard for so long is lost, and ends its ranks by itself.
        version: of megalm, the same everywhere.
    """

    ssh: Sequence[str]
    directory: str
    env: Mapping[str, str]
    link_timeout_s: float
    version: str


def run(
    config: RunConfig,
    command: Sequence[str],
    hosts: Sequence[Slots],
    ssh: str,
    directory: str,
    names: Sequence[str],
    link_timeout_s: float,
    version: str,
) -> int:
    """Start a run on other machines, again when it fails and ``run.max_restarts`` says so; return its exit code.

    Args:
        config: the run.
        command: the program of a rank: a Python, which starts ``megalm node`` too, and its arguments.
        hosts: the machines.
        ssh: the program, with options.
        directory: the working directory there.
        names: of variables that the ranks get, beside those that all get.
        link_timeout_s: a machine of which nothing was heard for so long is lost, and ends its ranks by itself.
        version: of megalm.

    Raises:
        UserError: the layout does not fit on the machines.
    """
    layout = config.layout
    used = fill(hosts, layout.world_size)
    check_nodes(layout, [host.slots for host in used], config.tensor.across_nodes)
    try:
        words = shlex.split(ssh)
    except ValueError as error:
        raise UserError(f"--ssh {ssh!r} is not understood ({error}); quote it as for a shell.") from error
    means = Means(words or ["ssh"], directory, handed_on(os.environ, names), link_timeout_s, version)
    Job.here("ssh").write(Path(config.run.dir))
    return run_again(lambda more: launch([*command, *more], used, means, Path(config.run.dir)), config.run)


def launch(command: Sequence[str], hosts: Sequence[Slots], means: Means, run_dir: Path) -> Outcome:
    """Start all ranks once, wait for them, and return how they ended; call it from the main thread.

    Args:
        command: see ``run``.
        hosts: the machines, with the ranks that each gets.
        means: how they are reached.
        run_dir: where the ranks keep their positions, and where a failure is told too.

    Raises:
        UserError: a machine cannot be reached, lacks megalm or has another one; nothing is left running.
    """
    clear_positions(run_dir)
    clear_verdict(run_dir)
    outcome = _Attempt(command, hosts, means, run_dir).run()
    if outcome.message and not outcome.asked_to_end:
        write_verdict(run_dir, outcome.message)
    return outcome


def handed_on(env: Mapping[str, str], more: Sequence[str]) -> dict[str, str]:
    """Return the variables that ranks on other machines get: those of ``PREFIXES`` and ``NAMES``, and ``more``."""
    names = {*NAMES, *more}
    return {name: value for name, value in env.items() if name in names or name.startswith(PREFIXES)}


class _Attempt:
    """All ranks, started once."""

    def __init__(self, command: Sequence[str], hosts: Sequence[Slots], means: Means, run_dir: Path) -> None:
        self._command, self._places, self._means, self._run_dir = command, hosts, means, run_dir
        self._seen: Seen | None = None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._hosts: list[SshHost] = []
        self._received: list[int] = []
        self._beat_s = beat_s(means.link_timeout_s)
        self._next_beat_s = 0.0

    def run(self) -> Outcome:
        with heard_by(self._receive):
            try:
                self._open()
                if self._ready("here", self._hosts):
                    self._start()
            finally:
                self._close()
        ends = [end for host in self._hosts for end in host.ends or ()]
        received = [*self._received, *(number for host in self._hosts for number in host.received)]
        fates = {rank: fate for host in self._hosts for rank, fate in host.fates.items()}
        seen = None if self._seen is None else self._seen.knowing(fates)
        lost = [f"{host.who} was lost: {host.lost}." for host in self._hosts if host.lost]
        return conclude(ends, received, seen, lost)

    def _open(self) -> None:
        means, first = self._means, 0
        remote = [self._command[0], "-m", "megalm", "node", f"--link-timeout={means.link_timeout_s:g}"]
        for place in self._places:
            self._hosts.append(SshHost(place, first, means.ssh, remote, means.directory, means.version, self._events))
            first += place.slots

    def _ready(self, word: str, hosts: Sequence[SshHost]) -> Mapping[str, Word]:
        """Return the answers of some hosts when all have given them, or none when the launcher is told to end."""
        answers: dict[str, Word] = {}
        end = time.monotonic() + COME_S
        while len(answers) < len(hosts):
            host, came = self._next()
            if self._received:
                return {}
            if host is not None and came is None:
                raise host.why_not_there()
            if host is not None and came is not None and came["word"] == word:
                answers[host.name] = came
            for late in hosts:
                if late.name not in answers and (late.lost or time.monotonic() > end):
                    raise UserError(f"host {late.name} did not start megalm within {COME_S:g} s; look at it.")
        return answers

    def _start(self) -> None:
        """Let all ranks meet, and return when none of any host is waited for."""
        first = self._hosts[0]
        world_size = sum(host.num_ranks for host in self._hosts)
        first.say("listen", host=first.name, alone=len(self._hosts) == 1, num_ranks=world_size)
        for place in self._ready("listens", [first]).values():
            for host in self._hosts:
                share = Share(host.first, host.num_ranks, world_size, place["address"], place["port"])
                host.say("start", command=self._command, env=self._means.env, share=share, run_dir=str(self._run_dir))
            while not all(host.over for host in self._hosts):
                speaker, came = self._next()
                if speaker is not None and came is None:
                    self._lose(speaker, "its connection was closed")
                elif came is not None and came["word"] == "died":
                    self._end_all()

    def _next(self) -> tuple[SshHost | None, Word | None]:
        """Return what comes next, or nothing for a while; hand signals on, and keep the links alive meanwhile."""
        if time.monotonic() >= self._next_beat_s:
            self._next_beat_s = time.monotonic() + self._beat_s
            for each in self._hosts:
                each.say("beat")
        host: SshHost | None = None
        came: Word | None = None
        with suppress(queue.Empty):
            event = self._events.get(timeout=self._beat_s)
            if isinstance(event, int):
                for each in self._hosts:
                    each.say("signal", number=event)
            else:
                host, came = event
        if host is not None and came is not None:
            host.hear(came)
        for each in self._hosts:
            if each.is_there and time.monotonic() - each.heard_s > self._means.link_timeout_s:
                self._lose(each, f"nothing was heard of it for {self._means.link_timeout_s:g} s")
        return host, came

    def _lose(self, host: SshHost, why: str) -> None:
        if not host.over:
            host.lost = why
            host.close()
            self._end_all()

    def _end_all(self) -> None:
        """Have all ranks end, and look before where they are."""
        self._seen = self._seen or look(self._run_dir)
        for host in self._hosts:
            if not host.over:
                host.say("end")

    def _close(self) -> None:
        """Leave no rank behind; of a machine out of reach, wait until its ranks have ended by themselves."""
        for host in self._hosts:
            host.close()
        deadline = time.monotonic() + CLOSE_S
        for host in self._hosts:
            host.wait_closed(deadline)
        alone = [host.heard_s for host in self._hosts if host.lost and host.may_run_on]
        if alone:
            left_s = max(alone) + self._means.link_timeout_s + MARGIN_S - time.monotonic()
            if left_s > MARGIN_S:
                print(f"megalm: {left_s:.0f} s, until lost ranks have ended by themselves", file=sys.stderr, flush=True)
            time.sleep(max(0.0, left_s))

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._received.append(number)
        self._events.put(number)  # a handler may come in the middle of a word
