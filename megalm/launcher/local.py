"""Starts the ranks of a run on this machine and ends them together.

The ranks meet on a socket that the launcher binds and rank 0 inherits, so no other process can take its port. The death
of one rank ends the others within 5 s; the death of the launcher ends all (``parent.die_with``, which each rank calls).
"""

import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from megalm.errors import UserError
from megalm.launcher.conclusion import Outcome, RankEnd, conclude
from megalm.launcher.exit_codes import SIGNALLED
from megalm.launcher.look import Seen, clear_verdict, look, write_verdict
from megalm.launcher.network import LOOPBACK
from megalm.launcher.placement import LISTEN_FD, LOCAL_LAUNCHER
from megalm.launcher.rank_process import RankProcess
from megalm.launcher.signals import heard_by
from megalm.launcher.threads import threads_per_rank, usable_cores
from megalm.watch.marker import clear_positions

PATIENCE_S = 3.0
"""Between SIGTERM and SIGKILL when the ranks are ended."""
SETTLE_S = 0.1
"""After a death: for a neighbour that died first but was noticed second."""
HEAR_S = 0.2
"""Of one wait for the end of a rank. A signal that does not wake the waiting thread is heard after it."""
MOST_RANKS_PER_CORE = 16


def launch(
    command: Sequence[str],
    num_ranks: int,
    run_dir: Path | None = None,
    stdin: int | None = None,
    env: Mapping[str, str] = os.environ,
) -> Outcome:
    """Run ``command`` once for each rank, placed by the environment as torchrun does, and return how they ended.

    Signals are handed to the ranks: they may save before they end, however often they are asked to. A second Ctrl-C
    kills them. Call it from the main thread.

    Args:
        command: the program of a rank; it calls ``parent.die_with``, and may tell its end by ``verdict.tell``.
        num_ranks: how many.
        run_dir: where they keep their positions and where a failure is told too; ``None`` where they have none.
        stdin: what rank 0 reads, if anything; no terminal, see ``relay``.
        env: the environment of the ranks, before they are told their places.

    Raises:
        UserError: too many ranks for this machine.
    """
    check_room(num_ranks)
    if run_dir is not None:
        clear_positions(run_dir)
        clear_verdict(run_dir)
    with socket.create_server((LOOPBACK, 0), backlog=max(128, num_ranks)) as listener:
        share = Share(0, num_ranks, num_ranks, LOOPBACK, listener.getsockname()[1])
        ranks = LocalRanks(command, env, share, listener, run_dir, stdin=stdin)
        with heard_by(ranks.receive):
            ends = ranks.run()
    outcome = conclude(ends, ranks.received, ranks.seen)
    if run_dir is not None and outcome.message and outcome.code < SIGNALLED:
        write_verdict(run_dir, outcome.message)
    return outcome


def check_room(num_ranks: int) -> None:
    """Refuse more ranks than this machine can hold.

    Raises:
        UserError: they are too many.
    """
    most = MOST_RANKS_PER_CORE * usable_cores()
    if num_ranks > most:
        raise UserError(
            f"the layout needs {num_ranks} ranks, more than this machine can hold ({most} on {usable_cores()} cores); "
            "start them on several machines with megalm launch ssh, torchrun or srun."
        )


class Share(NamedTuple):
    """The ranks of a run that one machine starts.

    Args:
        first: the first of them.
        num_ranks: how many; they follow one another.
        world_size: ranks of the run.
        address: where all ranks meet.
        port: on which port.
    """

    first: int
    num_ranks: int
    world_size: int
    address: str
    port: int


class LocalRanks:
    """The ranks of a run on this machine: they start together and end together.

    Args:
        command: the program of a rank.
        env: the environment of all of them, before they are told their places.
        share: which ranks they are.
        listener: where rank 0 is among them, the socket of the meeting, bound and listening.
        run_dir: where they keep their positions, if they do.
        died: called when one of them has died, before the others are ended.
        stdin: what rank 0 reads, if anything.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        share: Share,
        listener: socket.socket | None,
        run_dir: Path | None = None,
        died: Callable[[], None] = lambda: None,
        stdin: int | None = None,
    ) -> None:
        """See the class."""
        self.received: list[int] = []
        """The signals that were handed on, in order."""
        self.seen: Seen | None = None
        """Where the ranks were when the first of them ended."""
        self._run_dir, self._stdin = run_dir, stdin
        self._command, self._env, self._share, self._listener = command, env, share, listener
        self._ranks: list[RankProcess] = []
        self._ended: queue.SimpleQueue[tuple[int, float] | None] = queue.SimpleQueue()
        self._patience_s, self._died = PATIENCE_S, died

    def run(self) -> list[RankEnd]:
        """Start the ranks, wait for them, and return how they ended."""
        ends: Mapping[int, float] = {}
        try:
            self._start()
            ends = self._wait()
            if self._run_dir is not None and any(rank.died or rank.runs for rank in self._ranks):
                self.seen = look(self._run_dir)
        finally:
            self._end_all()
        return [rank.end(ends.get(rank.number)) for rank in self._ranks]

    def hand_on(self, number: int) -> None:
        """Hand a signal to all ranks; a second Ctrl-C kills them. May be called in a signal handler or a thread."""
        impatient = number == signal.SIGINT and number in self.received
        self.received.append(number)
        self._send(signal.SIGKILL if impatient else number)

    def receive(self, number: int, _: FrameType | None) -> None:
        """Handle a signal to this process: hand it on."""
        self.hand_on(number)

    def end(self, patience_s: float = PATIENCE_S) -> None:
        """Let ``run`` end all ranks now, by SIGKILL those that still run after ``patience_s``; from a thread."""
        self._patience_s = patience_s
        self._ended.put(None)

    def _start(self) -> None:
        share = self._share
        env = self._environment()
        for local_rank in range(share.num_ranks):
            number = share.first + local_rank
            own = {"RANK": str(number), "LOCAL_RANK": str(local_rank)}
            fds: list[int] = []
            if number == 0 and self._listener is not None:
                fds = [self._listener.fileno()]
                own[LISTEN_FD] = str(self._listener.fileno())
            stdin = subprocess.DEVNULL if number or self._stdin is None else self._stdin
            rank = RankProcess(number, self._command, {**env, **own}, fds, stdin)
            self._ranks.append(rank)
            threading.Thread(target=self._await, args=(rank,), daemon=True).start()
        if self._listener is not None:
            self._listener.close()  # rank 0 has it: when that is gone, nobody listens
        if self.received:  # it may have come before a rank was there to be told
            self._send(self.received[-1])

    def _environment(self) -> Mapping[str, str]:
        share = self._share
        return {
            "OMP_NUM_THREADS": str(threads_per_rank(share.num_ranks)),
            "PYTHONUNBUFFERED": "1",  # what a rank said before it was killed is on the screen
            **self._env,
            "WORLD_SIZE": str(share.world_size),
            "LOCAL_WORLD_SIZE": str(share.num_ranks),
            "MASTER_ADDR": share.address,
            "MASTER_PORT": str(share.port),
            LOCAL_LAUNCHER: str(os.getpid()),
        }

    def _await(self, rank: RankProcess) -> None:
        rank.process.wait()
        self._ended.put((rank.number, time.monotonic()))

    def _wait(self) -> dict[int, float]:
        """Return when all ranks have ended, one has died, or they are to end: which have ended, and when."""
        ends: dict[int, float] = {}
        while len(ends) < len(self._ranks):
            try:
                end = self._ended.get(timeout=HEAR_S)
            except queue.Empty:
                continue
            if end is None:
                return ends
            number, when = end
            ends[number] = when
            if self._ranks[number - self._share.first].died:
                self._died()
                break
        time.sleep(SETTLE_S)
        while not self._ended.empty():
            if (end := self._ended.get()) is not None:
                ends[end[0]] = end[1]
        return ends

    def _end_all(self) -> None:
        """Ask the ranks that still run to end, then make them."""
        if self._patience_s:
            self._send(signal.SIGTERM)
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline and any(rank.runs for rank in self._ranks):
            time.sleep(0.02)
        for rank in self._ranks:
            rank.kill()

    def _send(self, number: int) -> None:
        for rank in self._ranks:
            rank.send(number)
