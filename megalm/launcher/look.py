"""A look at all ranks of a run that does not go on, and what is said of it once: on the screen and in its directory."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from megalm.watch.diagnosis import Diagnosis, Fate, diagnose
from megalm.watch.place import read_positions
from megalm.watch.position import Position
from megalm.watch.processes import life_of, this_machine
from megalm.watch.screen import details, headline, last_lines
from megalm.whole_text import replace_text

FILE = "verdict.txt"
LAST_LINES = 20


@dataclass(frozen=True)
class Seen:
    """What was seen of a run's ranks at one moment.

    Args:
        positions: where they are.
        fates: what is known of their processes.
        now: Unix time of the look.
        log: the last lines of the run's log, which the first rank writes.
    """

    positions: Mapping[int, Position]
    fates: Mapping[int, Fate]
    now: float
    log: Sequence[str] = ()

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Why the run does not go on."""
        world_size = max((position.world_size for position in self.positions.values()), default=0)
        return diagnose(self.positions, world_size, self.fates)

    def knowing(self, fates: Mapping[int, Fate]) -> "Seen":
        """Return the same with more that is known of processes."""
        return replace(self, fates={**self.fates, **fates})

    def headline(self, diagnosis: Diagnosis) -> str:
        """Return what is wrong, in one sentence."""
        return headline(diagnosis, self.positions, self.fates, self.now)

    def details(self, diagnosis: Diagnosis, lines: Mapping[int, Sequence[str]]) -> list[str]:
        """Return where the ranks in question are, who waits on whom, and what they printed last.

        Args:
            diagnosis: of this look.
            lines: what ranks printed last, where that is known.
        """
        printed = {0: self.log, **lines}
        said = [line for rank in diagnosis.ranks[:1] for line in last_lines(rank, printed.get(rank, ()))]
        return [*details(diagnosis, self.positions, self.now), *said]


def look(run_dir: Path) -> Seen:
    """Look at the ranks of a run's newest launch, and at the processes of those that are on this machine."""
    positions, here = read_positions(run_dir), this_machine()
    lives = {rank: life_of(position, here) for rank, position in positions.items()}
    fates = {rank: Fate("dead" if life == "gone" else "stopped") for rank, life in lives.items() if _is_known(life)}
    log: Sequence[str] = ()
    with suppress(OSError):
        log = (run_dir / "log.txt").read_text(errors="replace").splitlines()[-LAST_LINES:]
    return Seen(positions, fates, time.time(), log)


def _is_known(life: str) -> bool:
    return life in ("gone", "stopped")


def write_verdict(run_dir: Path, text: str) -> None:
    """Keep what is said on the screen in the run's directory, if there is one."""
    with suppress(OSError):
        replace_text(run_dir / FILE, f"{text}\n")


def clear_verdict(run_dir: Path) -> None:
    """Take away what was said of an earlier start."""
    with suppress(OSError):
        (run_dir / FILE).unlink()
