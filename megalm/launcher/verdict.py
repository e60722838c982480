"""How a rank tells its launcher why it ended, so that the screen shows one sentence and not one from each rank.

The rank writes one line of JSON into a pipe before it ends. What the others say afterwards, mostly that a neighbour is
gone, is only read when nobody has told the cause.
"""

import contextlib
import json
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from megalm.errors import LostRank, TrainingError, UserError
from megalm.launcher.exit_codes import FAILED, INTERRUPTED, REFUSED

VERDICT_FD = "MEGALM_VERDICT_FD"
LONGEST = 15_000
"""Letters of at most 4 bytes: what fits into a pipe that nobody reads yet."""

Kind = Literal["finished", "refused", "lost", "crashed", "interrupted"]


@dataclass(frozen=True)
class Verdict:
    """Why a rank ended.

    Args:
        kind: ``finished`` in order, whatever its exit code; ``refused`` with a sentence for the user; ``lost`` with a
            sentence of what it waited for, from a rank that is gone or silent; ``crashed`` with a traceback;
            ``interrupted`` by Ctrl-C.
        code: its exit code, which a signal that came later does not change.
        text: the sentence or the traceback.
        time_s: on the machine's monotonic clock, the same for all processes.
    """

    kind: Kind
    code: int
    text: str
    time_s: float


class Said(NamedTuple):
    """What is said of an error that ends a process: see ``Verdict``."""

    kind: Kind
    code: int
    text: str


def said_of(error: BaseException) -> Said:
    """Return what is said of an error that ends a process."""
    match error:
        case UserError():
            return Said("refused", REFUSED, str(error))
        case TrainingError():
            return Said("refused", FAILED, str(error))
        case LostRank():
            return Said("lost", FAILED, str(error))
        case BrokenPipeError():
            return Said("interrupted", FAILED, "nobody reads the output.")
        case KeyboardInterrupt():
            return Said("interrupted", INTERRUPTED, "interrupted.")
        case _:
            return Said("crashed", FAILED, "".join(traceback.format_exception(error)))


def tell(kind: Kind, code: int, text: str, env: Mapping[str, str]) -> bool:
    """Tell the local launcher; return False where there is none to tell."""
    if VERDICT_FD not in env:
        return False
    verdict = Verdict(kind, code, text[-LONGEST:], time.monotonic())
    with contextlib.suppress(OSError):  # the launcher is gone: nobody is left to be told
        os.write(int(env[VERDICT_FD]), json.dumps(asdict(verdict), ensure_ascii=False).encode(errors="replace"))
    return True


def read(fd: int) -> Verdict | None:
    """Return what the rank at the other end of a non-blocking pipe has told so far, or None."""
    try:
        line = os.read(fd, 2**16)
    except BlockingIOError:
        return None
    with contextlib.suppress(ValueError, TypeError):
        return Verdict(**json.loads(line))
    return None
