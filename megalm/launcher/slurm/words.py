"""Slurm's notations: values of #SBATCH lines, names of logs, times, numbers of an array's tasks."""

import os
import re

from megalm.errors import UserError

PLAIN = re.compile(r"[\w./:=@,+~%-]+", re.ASCII)
LONGEST = 4000
"""Bytes of a value: sbatch reads a line into a buffer of 8192."""
UNLIMITED = ("infinite", "unlimited")
MOST_TASKS = 10_000


def directive_value(text: str, what: str) -> str:
    """Return ``text`` as the value of an option in a #SBATCH line.

    Args:
        text: any text of one line.
        what: it is, for the message.

    Raises:
        UserError: a #SBATCH line cannot hold it.
    """
    if not text or not text.isprintable() or len(text.encode()) > LONGEST:
        raise UserError(f"{what}={text[:100]!r} cannot stand in an #SBATCH line; give it a short name of one line.")
    return text if PLAIN.fullmatch(text) else '"' + re.sub(r'([\\"])', r"\\\1", text) + '"'


def log_name(directory: str, run_dir: str, pattern: str, *, array: bool) -> str:
    """Return a file name as Slurm's --output takes it.

    Args:
        directory: of the job; every ``%`` in it is itself.
        run_dir: from there; in an array ``%a`` in it is the number of the task.
        pattern: name of the file, with Slurm's own letters such as ``%j``.
        array: whether it is an array.

    Raises:
        UserError: there is a backslash in it, which Slurm would take away.
    """
    pieces = [piece.replace("%", "%%") for piece in (run_dir.split("%a") if array else [run_dir])]
    path = os.path.join(directory.replace("%", "%%"), "%a".join(pieces), pattern)
    if "\\" in path:
        raise UserError(
            f"{os.path.join(directory, run_dir)} has a backslash, which Slurm does not keep in the name of a log; "
            "choose another run.dir or directory."
        )
    return path


def seconds_of(time: str) -> float:
    """Return a time limit in seconds: ``30`` minutes, ``1:30:00``, ``2-12`` days and hours, ``infinite``.

    Raises:
        UserError: it is no such time, or 0.
    """
    if time.lower() in UNLIMITED:
        return float("inf")
    days, dash, clock = time.rpartition("-")
    parts = clock.split(":")
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    numbers = [*([days] if dash else []), *parts]
    if len(parts) > len(units) or not all(re.fullmatch(r"\d{1,9}", number, re.ASCII) for number in numbers):
        raise UserError(f"--time {time[:50]!r} is not understood; write minutes, H:MM:SS or D-HH:MM:SS.")
    seconds = int(days or 0) * 86400 + sum(int(part) * unit for part, unit in zip(parts, units, strict=False))
    if not seconds:
        raise UserError("--time 0 is no time; write minutes, H:MM:SS or D-HH:MM:SS.")
    return seconds


def tasks_of(array: str) -> list[int]:
    """Return the numbers of an array's tasks: of ``0-6:2,9%4`` they are 0, 2, 4, 6 and 9, at most 4 at once.

    Raises:
        UserError: it is not understood, or has too many.
    """
    part = r"(\d{1,8})(?:-(\d{1,8})(?::(\d{1,8}))?)?"
    if not re.fullmatch(rf"{part}(?:,{part})*(?:%\d{{1,8}})?", array, re.ASCII):
        raise UserError(
            f"--array {array[:50]!r} is not understood; write it as sbatch takes it, for example 0-3 or 1,5,9%2."
        )
    numbers: set[int] = set()
    for first, last, by in re.findall(part, array.partition("%")[0], re.ASCII):
        count = range(int(first), int(last or first) + 1, max(1, int(by or 1)))
        if not count or len(numbers) + len(count) > MOST_TASKS:
            raise UserError(f"--array {array[:50]} has no tasks or too many; it may have 1 to {MOST_TASKS}.")
        numbers.update(count)
    return sorted(numbers)
