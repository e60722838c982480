"""The thread of a rank that shows that it lives, and that notices when it waits for too long."""

import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from megalm.errors import UserError
from megalm.launcher.exit_codes import FAILED
from megalm.launcher.look import clear_verdict, write_verdict
from megalm.launcher.meeting import attempt
from megalm.launcher.placement import Placement
from megalm.launcher.teller import SILENT_S, Teller
from megalm.launcher.verdict import said_of, tell
from megalm.layout import Layout
from megalm.training.config import RunSection
from megalm.watch.marker import Marker, MarkerFile, clear_positions
from megalm.watch.place import read_positions
from megalm.watch.position import End, compact
from megalm.watch.processes import born, this_machine

BEAT_S = 1.0
FLUSH_EVERY = 10
"""Beats between two of which the file is handed to the disk: machines that share it see it so often."""
GRACE_S = 30.0
"""By which the collectives' own time-outs are longer: whoever raises them knows less than the watchdog."""
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
        clear_verdict(run_dir)
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
    """Lets a rank's heart beat while its context is open, and ends the rank when it waits for too long.

    Where a launcher of ours stands above all ranks, it is told, and looks at them; else the ranks tell by themselves.

    Args:
        marker: of this rank.
        placement: which rank this is.
        run: its directory and ``run.timeout``.
        env: ``os.environ``.
    """

    def __init__(self, marker: Marker, placement: Placement, run: RunSection, env: Mapping[str, str]) -> None:
        """See the class."""
        self._marker, self._env = marker, env
        self._timeout_s, self._run_dir = run.timeout, Path(run.dir)
        self._world_size = placement.world_size
        self._is_alone = placement.world_size == 1 and placement.launcher != "local"
        self._watches = isinstance(marker, MarkerFile) and placement.world_size > 1
        below_us = placement.launcher == "local"
        first = placement.rank - placement.local_rank
        self._neighbours = range(max(first, 0), first + placement.local_world_size)
        self._teller = Teller(self._run_dir, marker.launch) if self._watches and not below_us else None
        self._over, self._ending = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def patience_s(self) -> float:
        """How long collectives wait by themselves: no shorter than until the watchdog has told why."""
        return self._timeout_s + (GRACE_S if self._watches else 0)

    def __enter__(self) -> "Watchdog":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; the last position stays."""
        self._over.set()
        self._thread.join()
        self._marker.flush()

    def failed(self, error: BaseException) -> None:
        """Say how this rank ends, before others can see that it is gone.

        Raises:
            SystemExit: the ranks tell by themselves why the run ended, and it is told.
        """
        self._over.set()
        self._ending.acquire()  # never given back: of the two threads that may end this rank one does
        said = said_of(error)
        end = End(said.kind, said.text, time.time())
        self._marker.ends(end)
        if self._is_alone and end.kind != "interrupted":
            write_verdict(self._run_dir, end.text)
        if self._teller is not None:
            self._say(end, said.code, self._teller.text(replace(end, text=end.text + self._absent())))
            self._teller.kill_stopped(self._neighbours)
            raise SystemExit(said.code) from error

    def _watch(self) -> None:
        beats = 0
        while not self._over.wait(min(BEAT_S, self._timeout_s / 10)):
            beats += 1
            self._marker.beat()
            if beats % FLUSH_EVERY == 0:
                self._marker.flush()
                if self._teller is not None and self._teller.has_told and not self._over.is_set():
                    self._leave()  # the others waited for this rank, and have ended
            if self._watches:
                self._judge()

    def _judge(self) -> None:
        waited_s = self._marker.waited_s()
        if self._teller is not None:
            if waited_s > max(self._timeout_s - SILENT_S, self._timeout_s / 2):
                self._teller.suspect()
            else:
                self._teller.calm()
        if waited_s > self._timeout_s and not self._over.is_set():
            self._end(waited_s)

    def _absent(self) -> str:
        """Return which ranks have not come to where they meet, if this rank got no further."""
        if not self._marker.is_meeting:
            return ""
        absent = [rank for rank in range(self._world_size) if rank not in read_positions(self._run_dir)]
        return f" Rank {compact(absent)} has not come up." if absent else ""

    def _end(self, waited_s: float) -> None:
        if not self._ending.acquire(blocking=False):
            return
        end = End("lost", f"rank {self._marker.rank} waited for {waited_s:.0f} s: run.timeout.", time.time())
        self._marker.ends(end)
        self._say(end, FAILED, end.text if self._teller is None else self._teller.text(end))
        self._leave()

    def _leave(self) -> NoReturn:
        """End the whole process: no thread of it can hang or fail after this."""
        if self._teller is not None:
            self._teller.kill_stopped(self._neighbours)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(FAILED)

    def _say(self, end: End, code: int, text: str) -> None:
        if not tell(end.kind, code, text, self._env) and text:
            print(f"megalm: {text}", file=sys.stderr, flush=True)
