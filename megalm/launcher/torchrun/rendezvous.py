"""torchrun's rendezvous, with a watch on the nodes that take part.

torch's agents tell one another every few seconds that they are alive, and forget a node that has been silent for too
long; but the ranks of the others go on waiting for it until their time-out, as nothing closes the connections of a
machine whose power or network is gone. Here such a node counts as a change of the number of nodes, which starts the
ranks again.
"""

import os
import signal
import time
from contextlib import suppress
from datetime import timedelta

from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

from megalm.launcher.torchrun.notes import Notes

BACKEND = "megalm"
GRACE_S = 5.0
"""After a node was given up: how long the ranks may take to notice by themselves, and to say so."""
TIMEOUTS = ("join", "last_call", "close", "heartbeat")


class WatchedHandler(DynamicRendezvousHandler):
    """A rendezvous that notices which nodes are gone."""

    _num_met = 0
    _gone_since: float | None = None

    def get_backend(self) -> str:
        """Return the name by which torchrun asked for it."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the others, and remember how many there are."""
        info = super().next_rendezvous()
        self._num_met, self._gone_since = info.world_size, None
        return info

    def num_nodes_waiting(self) -> int:
        """Return how many nodes come, or are gone: the agent starts its ranks again if it is not 0.

        Ranks that wait for those of a node that is gone are killed, since no other signal reaches them there.
        """
        waiting: int = super().num_nodes_waiting()
        gone = self._num_met - len(self._state_holder.state.participants)
        if gone <= 0:
            return waiting
        if self._gone_since is None:
            self._gone_since = time.monotonic()
        if time.monotonic() - self._gone_since < GRACE_S:
            return waiting
        notes = Notes.of(os.environ)
        for pid in notes.ranks() if notes is not None else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return max(waiting, gone)


def create(parameters: RendezvousParameters) -> RendezvousHandler:
    """Make a handler as torch's c10d does."""
    backend, store = create_backend(parameters)
    seconds = {name: parameters.get_as_int(f"{name}_timeout") for name in TIMEOUTS}
    handler: RendezvousHandler = WatchedHandler.from_backend(
        parameters.run_id,
        store,
        backend,
        parameters.min_nodes,
        parameters.max_nodes,
        parameters.local_addr,
        RendezvousTimeout(**{name: timedelta(seconds=value) for name, value in seconds.items() if value is not None}),
        keep_alive_interval=parameters.get_as_int("keep_alive_interval", 5) or 5,
        keep_alive_max_attempt=parameters.get_as_int("keep_alive_max_attempt", 3) or 3,
    )
    return handler


def register() -> None:
    """Let torchrun know it as ``--rdzv-backend=megalm``.

    A handler stays until the process ends: if its own thread, which says that this node is alive, were the last to
    hold it, it would have to wait for itself.
    """
    handlers: list[RendezvousHandler] = []

    def keep(parameters: RendezvousParameters) -> RendezvousHandler:
        handlers.append(create(parameters))
        return handlers[-1]

    rendezvous_handler_registry.register(BACKEND, keep)
