"""``metrics.jsonl``: one whole JSON line an update, the account of a run that later readers trust.

A row says what the update used: ``step`` counts from 1, ``loss`` is that before the update, ``grad_norm`` that before
clipping, ``lr`` as used, ``tokens`` all tokens consumed so far. ``mfu`` is null when the device's peak is unknown;
what was found on held-out samples stands only in the rows of evaluated steps. JSON knows no NaN and no infinity: such a
number is written as null, and the row says ``"non_finite": true``.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megalm.errors import UserError
from megalm.training.line_file import LineFile
from megalm.training.log_tail import Tail

KEYS = ("step", "loss", "grad_norm", "lr", "tokens", "tokens_per_s", "step_time_s", "memory_gib", "mfu")

HELD_OUT = ("val_loss", "val_accuracy", "val_f1")
TASK = "task/"

MEANS = ("loss_", "val_loss_")
"""What the means of losses begin with, of which ``loss`` and ``val_loss`` are weighted sums; their names follow."""

Row = Mapping[str, Any]
"""One update: each of ``KEYS``, and on evaluated steps ``val_loss``, of a classifier all of ``HELD_OUT``; ``MEANS``.

A run of several tasks has ``task/NAME/loss`` for each, a mean without the task's weight, and what was found on held-out
samples for each as ``task/NAME/val_loss``; its ``loss`` and ``val_loss`` are the weighted sums.
"""


def held_out(row: Row) -> list[str]:
    """Return the keys of what a row says of held-out samples, those of tasks too."""
    return [key for key in row if key.rpartition("/")[2] in HELD_OUT and row[key] is not None]


class MetricsFile:
    """The writing side, held by one rank.

    Args:
        path: ``RUN_DIR/metrics.jsonl``; created if it is missing.

    Raises:
        UserError: the file cannot be written, or it is damaged before the step that a resume starts from.
    """

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)

    def truncate_after(self, step: int) -> None:
        """Drop the rows after ``step``, the last one of the checkpoint, and a last line that was cut short.

        The rows after a checkpoint will be computed again; 0 empties the file.
        """
        path = self._file.path
        data = path.read_bytes()
        kept = last_step = 0
        for row, end in whole_rows(data):
            if row["step"] > step:
                break
            kept, last_step = end, row["step"]
        else:
            if last_step < step and b"\n" in data[kept:]:
                line = data[:kept].count(b"\n") + 1
                raise UserError(
                    f"{path}: line {line} is not a row of metrics, though the checkpoint is of step {step}; mend that "
                    "line or move the file away."
                )
        self._file.cut(kept)

    def write(self, row: Row) -> None:
        """Append one row at full float precision.

        Raises:
            ValueError: a key of ``KEYS`` is missing.
        """
        missing = [key for key in KEYS if key not in row]
        if missing:
            raise ValueError(f"a row of metrics lacks {', '.join(missing)}")
        finite = {key: None if _non_finite(value) else value for key, value in row.items()}
        if any(_non_finite(value) for value in row.values()):
            finite["non_finite"] = True
        self._file.write(json.dumps(finite, allow_nan=False))

    def flush(self) -> None:
        """Return when every row is on the disk: call it before a checkpoint is marked complete."""
        self._file.flush()

    def close(self) -> None:
        """Flush and give the file back."""
        self._file.flush()
        self._file.close()


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the whole rows of a metrics file, also while it is being written: a last line cut short is left out.

    Raises:
        UserError: there is no such file, or a line before the last is not a row.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); name the directory of a run.") from error
    found = list(whole_rows(data))
    end = found[-1][1] if found else 0
    if b"\n" in data[end:]:
        raise UserError(f"{path}: line {len(found) + 1} is not a row of metrics; mend that line or take it out.")
    return [row for row, _ in found]


def last_row(path: Path) -> dict[str, Any] | None:
    """Return the newest whole row of a metrics file, read from its end; ``None`` where there is none."""
    lines = Tail(path).last(2).splitlines(keepends=True)  # the last may be cut short
    return next((row for line in reversed(lines) for row, _ in whole_rows(line.encode())), None)


def whole_rows(data: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each row with the offset of its end, up to the first line that is not a whole row."""
    end = 0
    for line in data.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n") or not isinstance(row, dict) or not isinstance(row.get("step"), int):
            return
        end += len(line)
        yield row, end


def _non_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
