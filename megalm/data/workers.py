"""Running jobs on several processes, so that a kill at any moment leaves nothing running and nothing half done."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from megalm.errors import UserError


class Job(Protocol):
    """A piece of work whose result is a file; where the file is, the work is done."""

    @property
    def target(self) -> Path:
        """The file that appears, whole, when the job is done."""

    def run(self) -> None:
        """Do the work."""


class Workers:
    """A pool of processes for jobs; with a count of 1 the jobs run in this process.

    Use it as a context manager. The workers hold one end of a pipe: when this process closes the other end or dies of
    anything, they end at once.
    """

    def __init__(self, count: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            context = get_context("spawn")  # a fork would copy the threads of the tokenizer library in mid-flight
            ours, self._theirs = context.Pipe()
            self._lifeline = ours
            self._pool = ProcessPoolExecutor(count, context, _follow, (self._theirs,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            if error is not None:
                self._lifeline.close()
            self._pool.shutdown(cancel_futures=True)
            self._lifeline.close()
            self._theirs.close()

    def run(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Do the jobs that are not done, and yield each when it and all before it are.

        Raises:
            UserError: a job met bad input (of several, the first in order), or a worker was killed.
        """
        todo = [job for job in jobs if not job.target.exists()]
        if self._pool is None:
            for job in todo:
                job.run()
                yield job
            return
        try:
            for job, future in [(job, self._pool.submit(job.run)) for job in todo]:
                future.result()
                yield job
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process was killed (out of memory?); run the same command with fewer --workers to go on."
            ) from error


def _follow(lifeline: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, and the parent lets go
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    lifeline.poll(None)
    os._exit(1)
