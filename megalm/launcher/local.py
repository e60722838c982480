"""Starts the ranks of a run on this machine and ends them together.

The ranks meet on a socket that the launcher binds and rank 0 inherits, so no other process can take its port. The death
of one rank ends the others within 5 s; the death of the launcher ends all (``parent.die_with``, which each rank calls).
"""

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import NamedTuple

from megalm.errors import UserError
from megalm.launcher.placement import LISTEN_FD, LOCAL_LAUNCHER
from megalm.launcher.rank_process import PREEMPTED, RankProcess
from megalm.launcher.threads import threads_per_rank, usable_cores

PATIENCE_S = 3.0
"""Between SIGTERM and SIGKILL when the ranks are ended."""
SETTLE_S = 0.1
"""After a death: for a neighbour that died first but was noticed second."""
MOST_RANKS_PER_CORE = 16
HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LOOPBACK = "127.0.0.1"


class Outcome(NamedTuple):
    """How a run ended.

    Args:
        code: 0 when every rank returned 0, 75 when they were preempted and saved, else the code of the rank that failed
            first: 1 for a rank ended by a signal, 128 + n after signal n from outside.
        message: the cause of a failure, told once: a sentence, or the traceback of a crash; else empty.
        asked_to_end: whether the launcher was signalled; then a failure is not mended by starting again.
    """

    code: int
    message: str = ""
    asked_to_end: bool = False


def launch(command: Sequence[str], num_ranks: int) -> Outcome:
    """Run ``command`` once for each rank, placed by the environment as torchrun does, and return how they ended.

    Signals are handed to the ranks: they may save before they end, however often they are asked to. A second Ctrl-C
    kills them. Call it from the main thread.

    Args:
        command: the program of a rank; it calls ``parent.die_with``, and may tell its end by ``verdict.tell``.
        num_ranks: how many.

    Raises:
        UserError: too many ranks for this machine.
    """
    most = MOST_RANKS_PER_CORE * usable_cores()
    if num_ranks > most:
        raise UserError(
            f"the layout needs {num_ranks} ranks, more than this machine can hold ({most} on {usable_cores()} cores); "
            "start them on several machines with torchrun or srun."
        )
    return _Launch(command, num_ranks).run()


class _Launch:
    """The ranks of one run."""

    def __init__(self, command: Sequence[str], num_ranks: int) -> None:
        self.command = command
        self.num_ranks = num_ranks
        self.ranks: list[RankProcess] = []
        self.received: list[int] = []
        self.ended: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()

    def run(self) -> Outcome:
        """Start the ranks, wait for them, and return how they ended."""
        with self._signals_handed_on():
            try:
                self._start()
                ends = self._wait()
            finally:
                self._end_all()
        return self._conclude(ends)._replace(asked_to_end=bool(self.received))

    def _start(self) -> None:
        with socket.create_server((LOOPBACK, 0), backlog=max(128, self.num_ranks)) as listener:
            env = self._environment(listener)
            for number in range(self.num_ranks):
                own = {"RANK": str(number), "LOCAL_RANK": str(number)}
                fds: list[int] = []
                if number == 0:
                    fds = [listener.fileno()]
                    own[LISTEN_FD] = str(listener.fileno())
                rank = RankProcess(number, self.command, {**env, **own}, fds)
                self.ranks.append(rank)
                threading.Thread(target=self._await, args=(rank,), daemon=True).start()
        if self.received:  # it may have come before a rank was there to be told
            self._hand_on(self.received[-1])

    def _environment(self, listener: socket.socket) -> Mapping[str, str]:
        env = {
            "OMP_NUM_THREADS": str(threads_per_rank(self.num_ranks)),
            "PYTHONUNBUFFERED": "1",  # what a rank said before it was killed is on the screen
        }
        if sys.platform == "linux":
            env["GLOO_SOCKET_IFNAME"] = "lo"  # the machine's own name may not resolve
        return {
            **env,
            **os.environ,
            "WORLD_SIZE": str(self.num_ranks),
            "LOCAL_WORLD_SIZE": str(self.num_ranks),
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(listener.getsockname()[1]),
            LOCAL_LAUNCHER: str(os.getpid()),
        }

    def _await(self, rank: RankProcess) -> None:
        rank.process.wait()
        self.ended.put((rank.number, time.monotonic()))

    def _wait(self) -> dict[int, float]:
        """Return when all ranks have ended, or one has died: which have, and when."""
        ends: dict[int, float] = {}
        while len(ends) < self.num_ranks:
            number, when = self.ended.get()
            ends[number] = when
            if self.ranks[number].died:
                break
        time.sleep(SETTLE_S)
        while not self.ended.empty():
            number, when = self.ended.get()
            ends[number] = when
        return ends

    def _end_all(self) -> None:
        """Ask the ranks that still run to end, then make them."""
        for rank in self.ranks:
            rank.send(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and any(rank.process.poll() is None for rank in self.ranks):
            time.sleep(0.02)
        for rank in self.ranks:
            rank.kill()

    def _conclude(self, ends: Mapping[int, float]) -> Outcome:
        for rank in self.ranks:
            rank.close()
        causes = {rank: order for rank in self.ranks if (order := _order(rank, ends.get(rank.number))) is not None}
        codes = [rank.process.returncode for rank in self.ranks]
        if causes:
            culprit = min(causes, key=causes.__getitem__)
            cause = self._cause(culprit)
            return cause._replace(message="\n".join([cause.message, *self._who_waited(culprit)]))
        return Outcome(next((code for code in codes if code not in (0, PREEMPTED)), max(codes)))

    def _who_waited(self, culprit: RankProcess) -> list[str]:
        """Return what each other rank waited for when it found that a rank was gone."""
        verdicts = [rank.verdict for rank in self.ranks if rank is not culprit]
        return [verdict.text for verdict in verdicts if verdict is not None and verdict.kind == "lost"]

    def _cause(self, culprit: RankProcess) -> Outcome:
        verdict = culprit.verdict
        code = verdict.code if verdict is not None else culprit.process.returncode
        if self.received and (code < 0 or (verdict is not None and verdict.kind == "interrupted")):
            number = self.received[0]
            message = "interrupted." if number == signal.SIGINT else f"ended by {signal.Signals(number).name}."
            return Outcome(128 + number, message)
        who = f"rank {culprit.number} (process {culprit.process.pid})"
        if verdict is not None and verdict.kind in ("refused", "lost"):
            message = verdict.text
        elif verdict is not None:
            message = f"{verdict.text.rstrip()}\n{who} failed; the other ranks were ended."
        elif code < 0:
            why = " (out of memory, or kill -9)" if -code == signal.SIGKILL else ""
            message = f"{who} was ended by {signal.Signals(-code).name}{why}; the other ranks were ended too."
        else:
            message = f"{who} ended with exit code {code}; the other ranks were ended."
        return Outcome(max(code, 1), message)

    @contextlib.contextmanager
    def _signals_handed_on(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._receive) for number in HANDED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        impatient = number == signal.SIGINT and number in self.received
        self.received.append(number)
        self._hand_on(signal.SIGKILL if impatient else number)

    def _hand_on(self, number: int) -> None:
        for rank in self.ranks:
            rank.send(number)


def _order(rank: RankProcess, ended: float | None) -> tuple[int, float] | None:
    """Return a key that is smallest for the cause of all deaths, or None for a rank that is no cause.

    A rank that knows why it ended comes first; then one that was killed and could not tell; a rank that crashed may
    only have seen that a neighbour was gone.

    Args:
        rank: it has ended.
        ended: when, if that was before the launcher ended the ranks.
    """
    verdict = rank.verdict
    if verdict is not None and verdict.kind in ("refused", "interrupted"):
        return 0, verdict.time_s
    if ended is None or not rank.died:
        return None
    if verdict is None and rank.process.returncode < 0:
        return 1, ended
    return 2, verdict.time_s if verdict is not None else ended
