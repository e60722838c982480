"""The rank pool: real gloo ranks that start once in a test session and are shared by its tests.

A test asks for ``ranks.run(4, function, *arguments)`` and gets the four results. ``function`` is a module-level
function of an importable test module whose first argument is a ``RankContext``; it finds a default process group of
exactly its ranks. Function, arguments and results travel as pickles. The world of each call is new, so that tests
cannot reach one another through a forgotten group; a rank that raises, hangs or dies fails only the test that ran it.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from torch._C._distributed_c10d import TCPStore

from tests.rank_worker import Answer, Call, RankContext

__all__ = ["RankContext", "RankFailure", "RankPool"]

MAX_RANKS = 8

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class RankFailure(AssertionError):
    """A rank raised, hung or died; the message holds every rank's story, the first to fail first."""


@dataclass
class Worker:
    """One process of the pool."""

    pid: int
    connection: Connection
    log: Path

    def read_log(self) -> str:
        """Return what the process printed."""
        return self.log.read_text(errors="replace").strip()


class RankPool:
    """Workers that start when they are first needed, and again after a hang or a death.

    Args:
        grace_s: how long the others may need to end after one rank has failed.
    """

    def __init__(self, grace_s: float = 5.0) -> None:
        self.grace_s = grace_s
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self._store: TCPStore | None = None
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._workers: dict[int, Worker] = {}
        self._calls = 0

    def run(
        self, num_ranks: int, function: Callable[[RankContext, *Ts], T], *arguments: *Ts, timeout_s: float = 120.0
    ) -> list[T]:
        """Call ``function(context, *arguments)`` on ``num_ranks`` ranks and return its results by rank.

        Raises:
            RankFailure: a rank raised, or has not answered after ``timeout_s``, or its process died.
        """
        if not 1 <= num_ranks <= MAX_RANKS:
            raise ValueError(f"the pool has 1 to {MAX_RANKS} ranks, not {num_ranks}")
        self._calls += 1
        work = pickle.dumps((function, arguments))
        workers = {rank: self._workers.get(rank) or self._start_worker(rank) for rank in range(num_ranks)}
        for rank, worker in workers.items():
            call = Call(f"call{self._calls}", rank, num_ranks, timeout_s, work)
            worker.connection.send_bytes(pickle.dumps(call))
        answers, failures = self._collect(workers, timeout_s)
        if failures:
            raise RankFailure("\n\n".join(failures.values()))
        return [pickle.loads(answers[rank]) for rank in range(num_ranks)]

    def close(self) -> None:
        """End every process of the pool."""
        if self._nursery is not None and self._control is not None:
            self._control.close()
            self._nursery.wait()
        for worker in self._workers.values():
            worker.connection.close()
        self._folder.cleanup()

    def _collect(self, workers: dict[int, Worker], timeout_s: float) -> tuple[dict[int, bytes], dict[int, str]]:
        """Wait until every worker is idle again; drop those that are not in time, and those that died."""
        busy = {worker.connection: rank for rank, worker in workers.items()}
        answers: dict[int, bytes] = {}
        failures: dict[int, str] = {}
        deadline = time.monotonic() + timeout_s
        while busy:
            ready = wait(list(busy), max(deadline - time.monotonic(), 0))
            if not ready:
                silent = {connection: rank for connection, rank in busy.items() if rank not in answers}
                for dropped, rank in (silent or dict(busy)).items():
                    where = self._drop_hanging(rank)
                    del busy[dropped]
                    if rank not in answers and rank not in failures:
                        failures[rank] = f"rank {rank} hung: no answer within {timeout_s:g} s, or {self.grace_s:g} s "
                        failures[rank] += f"after another rank failed. It was at:\n{where}"
                deadline = time.monotonic() + self.grace_s  # for those that had answered, and wait for the others
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = busy[connection]
                try:
                    answer: Answer = pickle.loads(connection.recv_bytes())
                except (EOFError, ConnectionError):
                    del busy[connection]
                    failures[rank] = self._drop_dead(rank)
                else:
                    if answer.result is not None:
                        answers[rank] = answer.result
                    elif answer.failure is not None:
                        failures[rank] = f"rank {rank} raised:\n{answer.failure}"
                    else:
                        del busy[connection]
                if failures or len(answers) == len(workers):
                    deadline = min(deadline, time.monotonic() + self.grace_s)
        return answers, failures

    def _drop_hanging(self, rank: int) -> str:
        """Kill a worker and return where its threads were."""
        worker = self._workers.pop(rank)
        os.kill(worker.pid, signal.SIGUSR1)
        written = -1
        while written != (written := len(worker.read_log())):
            time.sleep(0.2)
        os.kill(worker.pid, signal.SIGKILL)
        self._exit_code(worker)
        return worker.read_log()

    def _drop_dead(self, rank: int) -> str:
        worker = self._workers.pop(rank)
        code = self._exit_code(worker)
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"rank {rank} died without an answer ({cause}).\n{worker.read_log()}".strip()

    def _exit_code(self, worker: Worker) -> int:
        worker.connection.close()
        assert self._control is not None
        self._control.send(str(worker.pid).encode())
        return int(self._control.recv(64))

    def _start_worker(self, rank: int) -> Worker:
        if self._control is None or self._store is None:
            self._control = self._start_nursery()
            self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        log = Path(self._folder.name) / f"rank-{rank}.log"
        ours, theirs = socket.socketpair()
        socket.send_fds(self._control, [str(log).encode()], [theirs.fileno()])
        theirs.close()
        pid = self._control.recv(64)
        if not pid:
            raise RankFailure("the rank pool could not start: its first process ended while it imported torch.")
        self._workers[rank] = Worker(int(pid), Connection(ours.detach()), log)
        self._workers[rank].connection.send_bytes(pickle.dumps(("127.0.0.1", self._store.port)))
        return self._workers[rank]

    def _start_nursery(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.rank_worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        theirs.close()
        return ours
