"""The thread of a rank that shows that it lives, and that notices when it waits for too long."""

import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from megalm.errors import UserError
from megalm.launcher.meeting import attempt
from megalm.launcher.placement import Placement
from megalm.layout import Layout
from megalm.watch.marker import Marker, MarkerFile, clear_positions
from megalm.watch.processes import born, this_machine

BEAT_S = 1.0
FLUSH_EVERY = 10
"""Beats between two of which the file is handed to the disk: machines that share it see it so often."""
LAUNCH_VARIABLES = (
    *("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
    "PMIX_NAMESPACE",
)
"""What differs from launch to launch and is alike on all ranks of one."""


def mark(run_dir: Path, placement: Placement, layout: Layout, env: Mapping[str, str], *, on_device: bool) -> Marker:
    """Begin to keep this rank's position in the run directory.

    Where that cannot be written nothing is marked: what else is written there says so.

    Args:
        run_dir: the run's directory.
        placement: which rank this is.
        layout: where its coordinates are from.
        env: ``os.environ``.
        on_device: whether it computes on a GPU.
    """
    rank = placement.rank
    if rank == 0:
        clear_positions(run_dir, placement.world_size)
    try:
        return MarkerFile(
            run_dir,
            rank=rank,
            world_size=placement.world_size,
            host=socket.gethostname(),
            pid=os.getpid(),
            coordinates=layout.coordinates(rank)._asdict(),
            machine=this_machine(),
            born=born(os.getpid()),
            launch=" ".join(
                [
                    *(placement.launcher, str(placement.master_port), attempt(env)),
                    *(env.get(name, "-") for name in LAUNCH_VARIABLES),
                ]
            ),
            started=time.time(),
            on_device=on_device,
        )
    except UserError:
        return Marker()


class Watchdog:
    """Lets a marker's heart beat while its context is open.

    Args:
        marker: of this rank.
    """

    def __init__(self, marker: Marker) -> None:
        """See the class."""
        self._marker = marker
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; the last position stays."""
        self._over.set()
        self._thread.join()
        self._marker.flush()

    def _watch(self) -> None:
        beats = 0
        while not self._over.wait(BEAT_S):
            beats += 1
            self._marker.beat()
            if beats % FLUSH_EVERY == 0:
                self._marker.flush()
