"""A rank without torch, for the tests of the launcher: ``rank_program FOLDER BEHAVIOUR``.

It leaves its process id and its environment in FOLDER and then behaves as told. Called with a number of ranks in front
of the rest, ``rank_program start N FOLDER BEHAVIOUR`` is the launcher.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from megalm.launcher.parent import die_with
from megalm.launcher.placement import LOCAL_LAUNCHER
from megalm.launcher.verdict import tell

FOREVER_S = 60.0


def sleep(rank: int, folder: Path) -> int:
    time.sleep(FOREVER_S)
    return 0


def complete(rank: int, folder: Path) -> int:
    print(f"out of {rank}")
    print(f"err of {rank}", file=sys.stderr)
    return 0


def preempted(rank: int, folder: Path) -> int:
    def save(*_: object) -> None:
        time.sleep(0.2 * rank)
        (folder / f"{rank}.saved").touch()
        sys.exit(75)

    signal.signal(signal.SIGTERM, save)
    ready(rank, folder)
    return sleep(rank, folder)


def fail_with_3(rank: int, folder: Path) -> int:
    return 3 if rank == 1 else sleep(rank, folder)


def stubborn(rank: int, folder: Path) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ready(rank, folder)
    return sleep(rank, folder)


def deaf(rank: int, folder: Path) -> int:
    ready(rank, folder)
    ctypes.PyDLL(None).sleep(int(FOREVER_S))  # native code that keeps the interpreter's lock: no other thread runs
    return 0


def stubborn_neighbour(rank: int, folder: Path) -> int:
    if rank == 0:
        return stubborn(rank, folder)
    wait_for(folder / "0.ready")
    return 3


def all_refuse(rank: int, folder: Path) -> int:
    tell("refused", 2, "the corpus is empty; name another.", os.environ)
    return 2


def one_refuses_and_its_neighbour_crashes(rank: int, folder: Path) -> int:
    if rank == 1:
        tell("refused", 2, "the disk is full; free some space.", os.environ)
        (folder / "told").touch()
        time.sleep(0.5)  # the neighbour's end is seen first
        return 2
    wait_for(folder / "told")
    tell("crashed", 1, "Traceback: connection closed by peer", os.environ)
    return 1


def one_is_killed_and_its_neighbour_crashes(rank: int, folder: Path) -> int:
    if rank == 1:
        (folder / "told").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    wait_for(folder / "told")
    tell("crashed", 1, "Traceback: connection closed by peer", os.environ)
    return 1


def mismatch(rank: int, folder: Path) -> int:
    if rank == 0:
        time.sleep(0.5)
        (folder / "table").touch()
    tell("finished", 1, "", os.environ)
    return 1


def interrupted(rank: int, folder: Path) -> int:
    ready(rank, folder)
    try:
        time.sleep(FOREVER_S)
    except KeyboardInterrupt:
        tell("interrupted", 130, "", os.environ)
        return 130
    return 0


def ready(rank: int, folder: Path) -> None:
    (folder / f"{rank}.ready").touch()


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


BEHAVIOURS = (
    sleep,
    complete,
    preempted,
    fail_with_3,
    stubborn,
    deaf,
    stubborn_neighbour,
    all_refuse,
    one_refuses_and_its_neighbour_crashes,
    one_is_killed_and_its_neighbour_crashes,
    mismatch,
    interrupted,
)


def main() -> int:
    if sys.argv[1] == "start":
        from megalm.launcher.restarts import run_ranks  # here, for a rank needs none of it
        from megalm.training.config import RunSection

        command = [sys.executable, "-m", "tests.launcher.rank_program", *sys.argv[3:]]
        return run_ranks(command, int(sys.argv[2]), RunSection(dir=sys.argv[3]))
    folder, behaviour = Path(sys.argv[1]), sys.argv[2]
    die_with(int(os.environ[LOCAL_LAUNCHER]))
    rank = int(os.environ["RANK"])
    (folder / f"{rank}.env").write_text(json.dumps(dict(os.environ)))
    (folder / f"{rank}.new").write_text(str(os.getpid()))
    (folder / f"{rank}.new").rename(folder / f"{rank}.pid")
    return next(function for function in BEHAVIOURS if function.__name__ == behaviour)(rank, folder)


if __name__ == "__main__":
    sys.exit(main())
