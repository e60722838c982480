"""What is typed to a launcher reaches its first rank.

A rank stands in a process group of its own, and one that reads from a terminal itself is stopped there; so a thread of
the launcher reads, and the rank has a pipe.
"""

import contextlib
import os
import threading
from collections.abc import Iterator

CHUNK = 2**16


@contextlib.contextmanager
def relayed(source: int) -> Iterator[int]:
    """Give the end of a pipe at which everything comes out that is read from ``source``, up to its end of file."""
    read_end, write_end = os.pipe()
    threading.Thread(target=_copy, args=(source, write_end), daemon=True, name="relay").start()
    try:
        yield read_end
    finally:
        os.close(read_end)


def _copy(source: int, write_end: int) -> None:
    with contextlib.suppress(OSError):  # the rank is gone
        while data := os.read(source, CHUNK):
            while data:
                data = data[os.write(write_end, data) :]
    os.close(write_end)
