"""What is typed to a launcher reaches its first rank.

A rank stands in a process group of its own, and one that reads from a terminal itself is stopped there; so a thread of
the launcher reads, and the rank has a pipe. That somebody types, who waits to be asked, the rank is told.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping

STDIN, CHUNK = 0, 2**16
TYPED = "MEGALM_TYPED"
"""Set for ranks whose first one's lines are typed at the launcher's terminal."""


@contextlib.contextmanager
def relayed(source: int) -> Iterator[int]:
    """Give the end of a pipe at which everything comes out that is read from ``source``, up to its end of file."""
    read_end, write_end = os.pipe()
    threading.Thread(target=_copy, args=(source, write_end), daemon=True, name="relay").start()
    try:
        yield read_end
    finally:
        os.close(read_end)


def ranks_environment(source: int, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of ranks whose first one is given what ``source`` is read for."""
    return {**env, TYPED: "1"} if os.isatty(source) else dict(env)


def is_typed(source: int, env: Mapping[str, str]) -> bool:
    """Tell whether what comes from ``source`` is typed at a terminal, here or at the launcher's."""
    return os.isatty(source) or TYPED in env


def _copy(source: int, write_end: int) -> None:
    with contextlib.suppress(OSError):  # the rank is gone
        while data := os.read(source, CHUNK):
            while data:
                data = data[os.write(write_end, data) :]
    os.close(write_end)
