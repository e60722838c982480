"""A run that is asked to end early: by a signal to any of its ranks, or by the end of its job's time.

A handler only notes the request, so that it may come at any moment, in the middle of a save too. Between two steps the
ranks ask one another, so that all of them end after the same step.
"""

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import FrameType, TracebackType

import torch

from megalm import collectives
from megalm.mesh import Axis


class Stop(AbstractContextManager["Stop"]):
    """Hears requests to end as long as its context is open.

    Args:
        signals: names of those that ask for it.
        deadline_s: Unix time after which the run asks by itself; ``None`` without a limit.
        now: the clock of the deadline.

    Attributes:
        sources: other places where a request may lie; each returns why, or ``None``.
        ended_by: what the ranks agreed to end for, or ``None``.
    """

    def __init__(
        self, signals: Sequence[str], deadline_s: float | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """See the class."""
        self.sources: list[Callable[[], str | None]] = []
        self.ended_by: str | None = None
        self._signals = [signal.Signals[name] for name in signals]
        self._deadline_s, self._now = deadline_s, now
        self._received: str | None = None
        self._before: Mapping[signal.Signals, object] = {}

    def __enter__(self) -> "Stop":
        """Begin to hear signals; outside of the main thread, where Python has no handlers, only the clock is heard."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back to who handled them.

        Where that was the system, which would end the process, a rank that has ended as it was asked to ignores more of
        them: it may be asked a moment after the others, when all have saved.
        """
        for number, handler in self._before.items():
            done = self.ended_by is not None and handler == signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if done else handler)  # type: ignore[arg-type]

    def reason(self) -> str | None:
        """Return what has asked this rank to end, or ``None``."""
        if self._received is None and self._deadline_s is not None and self._now() >= self._deadline_s:
            return "the job's time limit"
        if self._received is not None:
            return self._received
        return next((why for source in self.sources if (why := source()) is not None), None)

    def agreed(self, world: Axis) -> str | None:
        """Return why the run ends now, the same on all ranks, or ``None``; every rank asks after the same step.

        Args:
            world: all ranks of the run.
        """
        own = self.reason()
        if not collectives.all_reduce(torch.tensor(int(own is not None)), world, "max", scalar=True).item():
            return None
        reasons: list[str | None] = collectives.gather_objects(own, world)
        self.ended_by = next(reason for reason in reasons if reason is not None)
        return self.ended_by

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._received = self._received or signal.Signals(number).name
