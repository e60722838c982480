"""Ranks that an elastic run has no use for at the moment: they wait, and end with the others.

They are no part of the run's process groups, so that they keep nobody waiting and cannot time out. They look now and
then into the store where the ranks met, which rank 0 keeps: it says there how the run ended, and when it is gone the
run has failed.
"""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

from megalm.errors import LostRank
from megalm.launcher.meeting import prepare
from megalm.launcher.placement import Placement

LOOK_S = 0.5
GOODBYE_S = 10.0
"""How long rank 0 waits until all spare ranks have read how the run ended."""
ASKED, ENDED, GONE = "spare/asked", "spare/ended", "spare/gone"


class End(NamedTuple):
    """How a run ended.

    Args:
        code: 0, or 75 if it was asked to end.
        reason: what asked.
    """

    code: int
    reason: str | None


class Spares:
    """The store of a run as its spare ranks and rank 0 use it.

    Args:
        placement: this rank's.
        num_spares: how many there are.
        timeout_s: until rank 0 has begun to listen.
        hosts: whether this process keeps the store: rank 0, where it had nobody else to meet.
    """

    def __init__(self, placement: Placement, num_spares: int, timeout_s: float, *, hosts: bool = False) -> None:
        """See the class."""
        self._num_spares = num_spares
        listen_fd = prepare(placement, os.environ).listen_fd if hosts else None
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            placement.master_addr,
            placement.master_port,
            is_master=listen_fd is not None,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout_s),
            master_listen_fd=listen_fd,
        )

    def wait(self, reason: Callable[[], str | None]) -> End:
        """Return how the run ended, as soon as it has; a spare rank calls this.

        Args:
            reason: returns what asks this rank to end, which rank 0 is told.

        Raises:
            LostRank: the run is gone.
        """
        try:
            while not self._store.check([ENDED]):
                why = reason()
                if why is not None:
                    self._store.set(ASKED, why)
                time.sleep(LOOK_S)
            end = End(**json.loads(self._store.get(ENDED)))
            self._store.add(GONE, 1)
        except dist.DistError as error:
            raise LostRank("a spare rank waited for the end of the run, and rank 0 is gone.") from error
        return end

    def asked(self) -> str | None:
        """Return what asked a spare rank to end, or ``None``; rank 0 calls this."""
        return self._store.get(ASKED).decode() if self._store.check([ASKED]) else None

    def release(self, how: End) -> None:
        """Let the spare ranks end; rank 0 calls this when the run has ended in order."""
        self._store.set(ENDED, json.dumps(how._asdict()))
        end = time.monotonic() + GOODBYE_S
        while self._store.add(GONE, 0) < self._num_spares and time.monotonic() < end:
            time.sleep(0.05)
