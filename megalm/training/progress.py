"""What a person sees of a run while it trains: a live line on a terminal, plain stable lines everywhere else.

The plain lines also go to ``RUN_DIR/log.txt``, which is continued by a resume. One rank holds the ``Progress``.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from rich import progress as rich_progress
from rich.console import Console

from megalm.training.line_file import LineFile
from megalm.training.metrics import MEANS, Row, held_out

SECONDS_BETWEEN_REDRAWS = 0.1


def format_step(row: Row, total: int, eta_s: float) -> str:
    """Return the stable line of one update, as ``step 10/200 | loss 6.1234 | ... | eta 0:03:10``."""
    line = (
        f"step {row['step']}/{total} | loss {_number(row['loss'], '.4f')} | "
        f"grad_norm {_number(row['grad_norm'], '.2f')} | lr {_number(row['lr'], '.1e')} | "
        f"tokens/s {_number(row['tokens_per_s'], '.0f')} | eta {timedelta(seconds=round(eta_s))}"
    )
    found = held_out(row)
    more = [name for name in row if name in found or (name.startswith(MEANS) and row[name] is not None)]
    return " | ".join([line, *(f"{name} {_number(row[name], '.4f')}" for name in more)])


class Progress:
    """Tell of each update on the console and in the log.

    Args:
        log_path: ``RUN_DIR/log.txt``, appended to; ``None`` writes no log.
        console: where to print; standard output by default. It is live if it is a terminal.
        clock: seconds from any origin; evaluation and saving count in the time that is left.

    Raises:
        UserError: the log cannot be written.
    """

    def __init__(
        self,
        log_path: Path | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = LineFile(log_path) if log_path else None
        self._console = console or Console()
        self._clock = clock
        self._bar: rich_progress.Progress | None = None
        self._task = rich_progress.TaskID(0)
        self._total = 0
        self._first: tuple[int, float] | None = None
        self._drawn = -SECONDS_BETWEEN_REDRAWS

    def start(self, first_step: int, total: int) -> None:
        """Begin with ``first_step``, the first update still to come (1, or after a resume more), of ``total``."""
        self._total = total
        if self._console.is_terminal:
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("step {task.completed}/{task.total}"),
                rich_progress.BarColumn(),
                rich_progress.TextColumn("{task.description}", markup=False),
                console=self._console,
                auto_refresh=False,
            )
            self._task = self._bar.add_task("", total=total, completed=first_step - 1)
            self._bar.start()

    def message(self, text: str) -> None:
        """Print one sentence of the run (a resume, a checkpoint, a warning) and log it."""
        self._print(text)
        if self._log:
            self._log.write(text)

    def step(self, row: Row) -> None:
        """Tell of one finished update; on a terminal only evaluated steps leave a line behind."""
        line = format_step(row, self._total, self._seconds_left(row))
        if self._log:
            self._log.write(line)
        if self._bar is None:
            self._print(line)
            return
        if row.get("val_loss") is not None:
            self._print(line)
        self._redraw(row, line)

    def finish(self) -> None:
        """Leave the console as it was and close the log; call it however the run ends, also twice."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()
            self._bar = None
        if self._log:
            self._log.close()
            self._log = None

    def _redraw(self, row: Row, line: str) -> None:
        assert self._bar is not None
        _, _, numbers = line.partition(" | ")
        self._bar.update(self._task, completed=row["step"], description=numbers)
        if self._clock() - self._drawn >= SECONDS_BETWEEN_REDRAWS:
            self._bar.refresh()
            self._drawn = self._clock()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def _seconds_left(self, row: Row) -> float:
        """Return the time left by the pace since the first update seen, whose own time may hold one-time work."""
        now = self._clock()
        left: int = max(0, self._total - row["step"])
        if self._first is None:
            self._first = row["step"], now
        step, then = self._first
        done = row["step"] - step
        pace: float = (now - then) / done if done > 0 else row["step_time_s"]
        return left * pace


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
