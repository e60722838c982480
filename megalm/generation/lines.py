"""What a user types, told to every rank."""

import contextlib
import queue
import threading
import time

from megalm.checkpoint.peers import Peers
from megalm.mesh import Mesh

SHARE_OF_TIMEOUT = 4
"""The ranks speak so many times in the time that they wait for one another, while the user says nothing."""

WAIT_S = 0.2
"""Of one wait for a line. A signal that comes just before a wait does not end it, and Ctrl-C is to be heard soon."""


class Lines:
    """Reads lines on rank 0, and gives them to all ranks.

    Args:
        mesh: of the ranks.
        source: the file descriptor that they come from.
        typed: whether somebody types them, who is asked for each.
    """

    def __init__(self, mesh: Mesh, source: int, *, typed: bool) -> None:
        """See the class."""
        self._source, self._asks, self._first = source, typed, mesh.rank == 0
        self._peers = Peers(mesh.world, mesh.timeout_s, "the dialogue")
        self._patience_s = mesh.timeout_s / SHARE_OF_TIMEOUT
        self._typed: queue.SimpleQueue[str] = queue.SimpleQueue()
        if self._first:
            threading.Thread(target=self._read, daemon=True, name="lines").start()

    def next(self) -> str | None:
        """Return the next line without its end, or ``None`` when there are no more; every rank calls this."""
        if self._first and self._asks:
            print("> ", end="", flush=True)
        heard: str | None = None
        while heard is None:
            heard = self._peers.together(self._heard)[0]
        if not heard and self._first and self._asks:
            print(flush=True)  # what comes next on the terminal begins a line
        return heard.rstrip("\r\n") if heard else None

    def _read(self) -> None:
        with open(self._source, encoding="utf-8", errors="replace", closefd=False) as typed:
            for line in typed:
                self._typed.put(line)
        self._typed.put("")

    def _heard(self) -> str | None:
        """Return a line with its end, or nothing at the end of all, on rank 0; ``None`` where nothing came yet."""
        if not self._first:
            return None
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                return self._typed.get(timeout=WAIT_S)
        return None
