"""Markers for tests: one rank of a small run, and a program that marks until it is killed."""

import sys
import time
from pathlib import Path
from typing import Any

from megalm.watch.marker import MarkerFile


def marker_of(run_dir: Path, rank: int, **card: Any) -> MarkerFile:
    fields = {"world_size": 4, "host": "h1", "pid": 4711, "coordinates": {"pp": 0, "dp": rank}, "launch": "first"}
    return MarkerFile(run_dir, rank=rank, **{**fields, **card})


def main(run_dir: Path) -> None:
    """Mark without end: step n, action nF0, collective n of 8 n bytes."""
    marker = marker_of(run_dir, 3)
    channel = marker.channel("dp", (1, 3))
    assert channel is not None
    number = 0
    while True:
        number += 1
        marker.step(number)
        marker.enter(f"{number}F")
        begun = channel.begin("all_reduce", 8 * number)
        begun.wait()
        begun.done()
        if number % 100 == 0:
            time.sleep(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
