"""What a launcher and its helper on another machine say to one another: a line of JSON each, over any pair of pipes.

Each line begins with a mark, so that what a login shell prints of itself is not taken for a word. Both sides say
something every few seconds: whoever hears nothing for long takes the link for cut, which closes no pipe.
"""

import json
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import Any, BinaryIO

from megalm.launcher.conclusion import RankEnd
from megalm.launcher.verdict import Verdict

MARK = b"\x1e"
LONGEST_BEAT_S = 2.0
Word = dict[str, Any]
"""``{"word": NAME, ...}``. From the launcher: ``listen, start, signal, end, beat``. From a machine: ``here`` (it is
there), ``listens``, ``refused``, ``out`` (a line of rank 0's output), ``died`` (a rank), ``ended`` (all ranks),
``beat``."""


def beat_s(link_timeout_s: float) -> float:
    """Return how often each side says something, of a link that counts as cut after so long a silence."""
    return min(LONGEST_BEAT_S, link_timeout_s / 4)


class Speaker:
    """Says words into a pipe; from several threads, each word is whole.

    Args:
        pipe: unbuffered.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        """See the class."""
        self._pipe, self._lock = pipe, threading.Lock()

    def say(self, word: str, **more: Any) -> None:
        """Say one word; whether the other side is gone is noticed by listening."""
        line = memoryview(MARK + json.dumps({"word": word, **more}).encode() + b"\n")
        with self._lock, suppress(OSError, ValueError):
            while line:
                line = line[self._pipe.write(line) :]


def heard(line: bytes) -> Word | None:
    """Return the word of a line, or ``None`` where it is something else."""
    if not line.startswith(MARK):
        return None
    with suppress(ValueError):
        found = json.loads(line[len(MARK) :])
        if isinstance(found, dict) and isinstance(found.get("word"), str):
            return found
    return None


def pack(end: RankEnd) -> dict[str, Any]:
    """Return a rank's end as JSON-able values."""
    return {**end._asdict(), "verdict": None if end.verdict is None else asdict(end.verdict)}


def unpack(packed: dict[str, Any], host: str, clock_s: float) -> RankEnd:
    """Return the end that ``pack`` made values of.

    Args:
        packed: the values.
        host: where the rank was.
        clock_s: what to add to that machine's monotonic clock to have one's own.
    """
    verdict, ended_s = packed["verdict"], packed["ended_s"]
    if verdict is not None:
        verdict = Verdict(**{**verdict, "time_s": verdict["time_s"] + clock_s})
    return RankEnd(**{**packed, "verdict": verdict, "ended_s": ended_s and ended_s + clock_s, "host": host})
