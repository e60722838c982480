"""The folders of a run's checkpoints, and the order in which they change so that a kill at any moment does no harm.

========================  ==================================================================================
``step-00000100``         a checkpoint; complete once it holds the mark
``saving-00000100-1f3a``  a save under way; it becomes ``step-00000100`` by one rename
``replaced-00000100-...`` the former ``step-00000100`` while a second save of that step takes its place; as good
                          as any checkpoint until the new one has its mark
``deleting-...``          a checkpoint that is being deleted; nobody looks at it
========================  ==================================================================================

So at every moment the newest marked ``step-`` or ``replaced-`` folder is a whole checkpoint.
"""

import os
import re
import secrets
import shutil
from pathlib import Path

from megalm.checkpoint.manifest import MARK, is_marked

UNMARKED = f"{MARK}.new"
"""The mark before its rename: no disk space is needed to mark a checkpoint."""

_CANDIDATE = re.compile(r"(step|replaced)-(\d{8,})(-[0-9a-f]+)?")
_LEFTOVER = re.compile(r"(saving|deleting)-\d{8,}-[0-9a-f]+")


def step_of(folder: Path) -> int:
    """Return the step that a folder is named after."""
    return int(folder.name.split("-")[1])


def sync_folder(folder: Path) -> None:
    """Return when the names in ``folder`` are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Folders:
    """The folders below ``directory``; one rank changes them for all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def candidates(self) -> list[Path]:
        """Return the folders that may be checkpoints, newest first, those of cut-off saves included."""
        if not self.directory.is_dir():
            return []
        found = [path for path in self.directory.iterdir() if _CANDIDATE.fullmatch(path.name)]
        return sorted(found, key=lambda path: (-step_of(path), path.name.startswith("replaced"), path.name))

    def begin(self, step: int) -> Path:
        """Remove what torn saves left, and return a new folder to save into."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)  # what cannot go now is tried again at the next save
        folder = self._named("saving", step)
        folder.mkdir()
        return folder

    def publish(self, folder: Path, step: int) -> None:
        """Turn a folder, whose every file is on the disk, into the checkpoint of ``step``."""
        sync_folder(folder)
        final = self.directory / f"step-{step:08d}"
        if final.exists():
            final.rename(self._named("replaced", step))
        folder.rename(final)
        sync_folder(self.directory)
        (final / UNMARKED).rename(final / MARK)
        sync_folder(final)

    def retire(self, step: int, keep: int) -> list[Path]:
        """Delete all but the ``keep`` newest complete checkpoints up to ``step``, which was just completed.

        Later ones belong to a course of the run that was left when it went back to an earlier checkpoint; if they
        stayed, the next resume would take up that course again.

        Returns:
            The complete checkpoints of later steps, which are gone too.
        """
        kept: list[int] = []
        later: list[Path] = []
        for folder in self.candidates():
            at, marked = step_of(folder), is_marked(folder)
            if marked and at <= step and at not in kept and len(kept) < keep:
                kept.append(at)
                continue
            if marked and at > step:
                later.append(folder)
            self._delete(folder)
        return later

    def abandon(self, folder: Path) -> None:
        """Give back the space of a save that failed; what cannot be removed now is removed by the next save."""
        shutil.rmtree(folder, ignore_errors=True)

    def _delete(self, folder: Path) -> None:
        """Take the folder out of sight first: half a checkpoint is never seen."""
        out_of_sight = self._named("deleting", step_of(folder))
        folder.rename(out_of_sight)
        sync_folder(self.directory)
        shutil.rmtree(out_of_sight)

    def _named(self, state: str, step: int) -> Path:
        """Return a name that no other process and no earlier save has used."""
        return self.directory / f"{state}-{step:08d}-{secrets.token_hex(4)}"
