"""A run that failed is started again from its last checkpoint, as often as ``run.max_restarts`` allows.

What may go better the next time is started again: a rank that was killed, hung or crashed, a host that is gone, a disk
that is full. A run that was asked to end is not, nor is one that was refused before it trained: a mistake in the run
file would be refused again. What is refused once the same run has trained is the machine's, a full disk most of all.
"""

import contextlib
import itertools
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from megalm.checkpoint.folders import Folders, step_of
from megalm.checkpoint.manifest import MARK, is_marked
from megalm.errors import UserError
from megalm.launcher.conclusion import Outcome
from megalm.launcher.exit_codes import PREEMPTED, REFUSED, SIGNALLED
from megalm.launcher.local import launch
from megalm.launcher.signals import heard_by
from megalm.training.config import RunSection

Attempt = Callable[[Sequence[str]], Outcome]
"""Starts all ranks, with so many more overrides of the run file, and returns how they ended; it may raise UserError."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LOOK_S = 0.1


def run_ranks(command: Sequence[str], num_ranks: int, run: RunSection) -> int:
    """Start the ranks of a run on this machine, again when they fail, say on stderr why, and return the exit code.

    Args:
        command: the program of a rank, with a run file and its overrides at the end.
        num_ranks: how many.
        run: the run's own section.
    """
    return run_again(lambda more: launch([*command, *more], num_ranks, Path(run.dir)), run)


def run_again(attempt: Attempt, run: RunSection) -> int:
    """Make attempts until one completes, is asked to end, or cannot go better the next time; return its exit code.

    A pause before each grows from 1 s to a minute as long as none of them trains.
    """
    run_dir = Path(run.dir)
    more: tuple[str, ...] = ()
    has_trained, pause_s = False, FIRST_PAUSE_S
    requests = _Requests()
    with heard_by(requests.receive):
        for number in itertools.count(1):
            before = Trace.of(run_dir)
            try:
                outcome = attempt(more)
            except UserError as error:
                outcome = Outcome(REFUSED, str(error))
            if outcome.message:
                print(f"megalm: {outcome.message}", file=sys.stderr, flush=True)
            after = Trace.of(run_dir)
            trained = after.metrics != before.metrics
            has_trained = has_trained or trained
            if outcome.code in (0, PREEMPTED) or (outcome.code == REFUSED and not has_trained):
                return outcome.code
            if outcome.asked_to_end or number > run.max_restarts:
                return outcome.code
            if after.saved - before.saved:
                more = ("checkpoint.resume=auto",)  # whatever the run began from, these are its own
            pause_s = FIRST_PAUSE_S if trained else pause_s
            why = _in_one_line(outcome)
            _note(run_dir, f"restart {number} of {run.max_restarts} in {pause_s:g} s, {after.where(more)}: {why}")
            if requests.within(pause_s):
                return requests.answer(run.stop_signals)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    raise AssertionError("attempts without end")


class Trace(NamedTuple):
    """What a run has left in its directory, as far as the launcher looks.

    Args:
        metrics: changes with every step, and when training goes on from a checkpoint.
        saved: its complete checkpoints: step, and what tells one of them from a second of the same step.
    """

    metrics: tuple[int, int]
    saved: frozenset[tuple[int, int]]

    @staticmethod
    def of(run_dir: Path) -> "Trace":
        """Look at a directory, which need not be there."""
        metrics, saved = (0, 0), frozenset[tuple[int, int]]()
        with contextlib.suppress(OSError):
            found = (run_dir / "metrics.jsonl").stat()
            metrics = found.st_mtime_ns, found.st_size
        with contextlib.suppress(OSError):
            folders = [folder for folder in Folders(run_dir / "checkpoints").candidates() if is_marked(folder)]
            saved = frozenset((step_of(folder), (folder / MARK).stat().st_mtime_ns) for folder in folders)
        return Trace(metrics, saved)

    def where(self, more: Sequence[str]) -> str:
        """Return where the next attempt begins, in words."""
        if more and self.saved:
            return f"from step {max(self.saved)[0]}"
        return "from the last checkpoint" if self.saved else "from where it began"


class _Requests:
    """Hears what asks a run to end while no ranks are there to be told."""

    def __init__(self) -> None:
        self._received: list[int] = []

    def within(self, seconds: float) -> bool:
        """Return whether a request has come or comes so soon."""
        end = time.monotonic() + seconds
        while not self._received and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_S))
        return bool(self._received)

    def answer(self, stop_signals: Sequence[str]) -> int:
        """Return the exit code: between two attempts a run that is asked to save has saved what there is."""
        number = self._received[0]
        name = signal.Signals(number).name
        text = "interrupted" if number == signal.SIGINT else f"ended by {name}"
        print(f"megalm: {text} before the restart.", file=sys.stderr, flush=True)
        return PREEMPTED if name in stop_signals else SIGNALLED + number

    def receive(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        self._received.append(number)


def _in_one_line(outcome: Outcome) -> str:
    """Return the first line, or after a traceback the one that names the rank."""
    lines = [line for line in outcome.message.splitlines() if line.strip()] or [f"exit code {outcome.code}."]
    if not lines[0].startswith("Traceback"):
        return lines[0]
    return next((line for line in lines if line.startswith("rank ")), lines[-1])


def _note(run_dir: Path, line: str) -> None:
    """Say a line and add it to the log; a full disk does not keep the run from going on."""
    print(f"megalm: {line}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError), (run_dir / "log.txt").open("a") as log:
        log.write(f"{line}\n")
