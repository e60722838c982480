"""Who tells why a run ended, where no launcher of ours stands above its ranks: one of them tells for all.

The first to make a file is the teller. A rank that knows the cause, because it is its own error, tells at once. One
that only lost another looks for the cause until it is plain: a rank of this machine is gone or stopped, another one has
said how it ended, or others show life and one does not. The rest wait until it is told, as many launchers kill what is
left as soon as one rank has ended. Ranks of the same machine that are stopped are killed, and a rank that waits for
nobody, because the others wait for it, finds what was told.
"""

import os
import signal
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from megalm.launcher.look import Seen, look, write_verdict
from megalm.watch.diagnosis import Fate
from megalm.watch.place import FOLDER, read_position
from megalm.watch.position import End, Position
from megalm.watch.processes import life_of, this_machine

LOOK_S = 0.1
SEEN_ALIVE_S = 3.0
"""How long a rank of another machine shows no life, while others do, until it counts as silent."""
SILENT_S = 12.0
"""The same where none does: machines that share a file system may see one another's changes so late."""
PATIENCE_S = 13.0
"""How long the others wait for the teller."""


class Teller:
    """One rank's part in telling why the run ended.

    Args:
        run_dir: the run's directory, which all ranks share.
        launch: which launch this rank belongs to.
    """

    def __init__(self, run_dir: Path, launch: str) -> None:
        """See the class."""
        self._run_dir, self._launch = run_dir, launch
        mark = f"{zlib.crc32(launch.encode()):08x}"
        self._claim, self._told = run_dir / FOLDER / f"teller-{mark}", run_dir / FOLDER / f"told-{mark}"
        self._started = time.time()
        self._is_teller = False
        self._before: Seen | None = None

    def claim(self) -> bool:
        """Be the teller, unless another rank is; return whether this one is."""
        if not self._is_teller:
            try:
                os.close(os.open(self._claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                return False
            except OSError:  # the disk is full, or gone: better twice than never
                pass
            self._is_teller = True
        return True

    def suspect(self) -> None:
        """Look at the ranks for the first time: something may be wrong soon."""
        if self._before is None and self.claim():
            self._before = look(self._run_dir)

    def calm(self) -> None:
        """It was nothing."""
        if self._before is not None:
            self._before, self._is_teller = None, False
            with suppress(OSError):
                self._claim.unlink()

    def text(self, end: End) -> str:
        """Return why the run ended, to be said by this rank; empty when another rank has said it for all.

        Args:
            end: how this rank ends.
        """
        if not self.claim():
            self._wait()
            return "" if self.has_told else end.text
        text = self._look_for_cause(end) if end.kind == "lost" else end.text
        if end.kind == "crashed":
            text = self._with_place(text)
        write_verdict(self._run_dir, text)
        with suppress(OSError):
            self._told.write_text(str(time.time()))
        return text

    @property
    def has_told(self) -> bool:
        """Whether a rank has said why this launch ended: one that began before this rank is meant for another."""
        try:
            return float(self._told.read_text()) > self._started
        except (OSError, ValueError):
            return False

    def kill_stopped(self, ranks: Iterable[int]) -> None:
        """Kill those of these ranks that are on this machine and stopped: no launcher may do it soon."""
        here = this_machine()
        for rank in ranks:
            position = read_position(self._run_dir, rank)
            if position is not None and position.launch == self._launch and life_of(position, here) == "stopped":
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(position.pid, signal.SIGKILL)

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.has_told and time.monotonic() < deadline:
            time.sleep(LOOK_S)

    def _look_for_cause(self, end: End) -> str:
        before = self._before or look(self._run_dir)
        while True:
            seen = look(self._run_dir)
            seen = seen.knowing(_silent(before, seen))
            diagnosis = seen.diagnosis
            plain = diagnosis is not None and diagnosis.cause in ("failed", "mismatch", "dead", "stopped", "silent")
            if plain or seen.now - before.now >= SILENT_S or (self._all_alive(before, seen)):
                break
            time.sleep(LOOK_S)
        if diagnosis is None:
            return end.text
        return "\n".join([seen.headline(diagnosis), *seen.details(diagnosis, {})])

    def _all_alive(self, before: Seen, seen: Seen) -> bool:
        """Whether every rank has shown life since the first look, or is on this machine, where that is known."""
        here = this_machine()
        return seen.now - before.now >= SEEN_ALIVE_S and all(
            position.machine == here or _has_beaten(before, position) for position in seen.positions.values()
        )

    def _with_place(self, text: str) -> str:
        seen = look(self._run_dir)
        diagnosis = seen.diagnosis
        if diagnosis is None or diagnosis.cause != "failed":
            return text
        return "\n".join([seen.headline(diagnosis), *seen.details(diagnosis, {})])


def _has_beaten(before: Seen, position: Position) -> bool:
    earlier = before.positions.get(position.rank)
    return earlier is None or earlier.beats != position.beats


def _silent(before: Seen, seen: Seen) -> Mapping[int, Fate]:
    """Return the ranks of other machines that have shown no life since the first look."""
    here, watched_s = this_machine(), seen.now - before.now
    others = [position for position in seen.positions.values() if position.machine != here and position.end is None]
    still = [position for position in others if not _has_beaten(before, position)]
    if watched_s < (SEEN_ALIVE_S if len(still) < len(others) else SILENT_S):
        return {}
    return {position.rank: Fate("silent", f"for {watched_s:.0f} s") for position in still}
