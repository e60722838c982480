"""The checkpoints of one run: saved by all ranks together, found again after any kill.

On disk a checkpoint is a torch DCP folder, which any layout can read, with three files of ours: the facts, a manifest
with a fingerprint of every file, and a mark that says that the save came to its end. All ranks see one file system.
DCP takes as long to import as half of torch, so it is when a checkpoint is saved or opened.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megalm.checkpoint.background import Background
from megalm.checkpoint.folders import Folders
from megalm.checkpoint.manifest import MANIFEST, Damaged, is_marked
from megalm.checkpoint.peers import Peers
from megalm.checkpoint.piece import Piece
from megalm.errors import UserError
from megalm.mesh import Axis
from megalm.watch.marker import Marker

if TYPE_CHECKING:
    from megalm.checkpoint.checkpoint import Checkpoint

TIMEOUT_S = 600.0


def _warn_on_stderr(text: str) -> None:
    print(text, file=sys.stderr)


class CheckpointStore:
    """The checkpoints in one directory; every rank makes one, and all methods are called by all ranks alike.

    Args:
        directory: ``RUN_DIR/checkpoints``, on a file system that the nodes of the run share; made when first needed.
        world: all ranks of the run.
        keep: how many complete checkpoints stay.
        warn: is told, on the first rank, one sentence about each checkpoint that is refused or given up.
        timeout_s: how long a rank waits for the slowest other one to write its share.
        marker: where this rank marks that it saves.
    """

    def __init__(
        self,
        directory: Path,
        *,
        world: Axis,
        keep: int,
        warn: Callable[[str], None] = _warn_on_stderr,
        timeout_s: float = TIMEOUT_S,
        marker: Marker | None = None,
    ) -> None:
        """See the class."""
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least the newest checkpoint stays")
        self._folders = Folders(directory)
        self._peers = Peers(world, timeout_s)
        self._keep = keep
        self._warn = warn
        self._background = Background(marker or Marker())
        self._warnings: list[str] = []

    def save(self, step: int, tensors: Mapping[str, Piece], facts: Mapping[str, Any], *, asynchronous: bool) -> None:
        """Save the state after ``step``, when a save under way is complete.

        Args:
            tensors: what this rank holds. Together the ranks hold each element of each tensor; the same rectangle held
                by several ranks is stored once, rectangles that overlap otherwise are refused.
            facts: JSON-able values; the first rank's are kept.
            asynchronous: return when this rank's share is copied; the values may change then, and ``wait`` or the next
                save tells how it went.

        Raises:
            UserError: the file system refused (no space left, no permission); on all ranks, and older checkpoints stay.
            TrainingError: a rank failed meanwhile.
            LostRank: a rank ended meanwhile, or did not answer in time.
        """
        from megalm.checkpoint.save import Save

        self.wait()
        save = Save(self._folders, self._peers, step)
        save.plan(tensors, facts, copy=asynchronous)

        def work() -> None:
            save.write()
            self._retire(step)

        if asynchronous:
            self._background.start(work)
        else:
            work()
            self._tell()

    def wait(self) -> None:
        """Return when the save under way is complete; call it before the process groups are taken down.

        Raises:
            UserError: as ``save``.
            TrainingError: as ``save``.
            LostRank: as ``save``.
        """
        try:
            self._background.wait()
        finally:
            self._tell()

    def newest(self) -> "Checkpoint | None":
        """Return the newest complete and intact checkpoint, the same on all ranks; None when none was completed.

        Every byte is read and compared with its fingerprint. A damaged one is named in a warning, and the one before it
        is taken.

        Raises:
            UserError: there are complete ones, but none is intact; or the directory cannot be read.
        """
        self.wait()
        first = self._peers.first
        listed = self._peers.together(lambda: self._listed() if first else [])[0]
        refused = False
        for name, marked in listed:
            try:
                return _open(self._folders.directory / name, self._peers)
            except Damaged as damage:
                refused = refused or marked
                if first:
                    self._warn(f"checkpoint {self._folders.directory / name} is refused: {damage}.")
        if refused:
            raise UserError(
                f"no checkpoint in {self._folders.directory} is intact; start afresh with checkpoint.resume=never, or "
                "with another run.dir."
            )
        return None

    def _listed(self) -> list[tuple[str, bool]]:
        """Return the names of what may be checkpoints, newest first, and whether each has its mark."""
        try:
            return [(folder.name, is_marked(folder)) for folder in self._folders.candidates()]
        except OSError as error:
            raise UserError(
                f"the checkpoints in {self._folders.directory} cannot be read ({error.strerror}); mend that, or choose "
                "another run.dir."
            ) from error

    def _tell(self) -> None:
        """Pass on what the background thread had to say; ``warn`` is called in the thread that made the store."""
        warnings, self._warnings = self._warnings, []
        for warning in warnings:
            self._warn(warning)

    def _retire(self, step: int) -> None:
        """Delete what is no longer kept. The new checkpoint is complete: nothing here can fail the save."""
        if not self._peers.first:
            return
        try:
            for folder in self._folders.retire(step, self._keep):
                self._warnings.append(
                    f"checkpoint {folder} is deleted: the run went back to an earlier step and has now saved {step}."
                )
        except OSError as error:
            self._warnings.append(
                f"old checkpoints in {self._folders.directory} could not be deleted ({error.strerror})."
            )


def open_checkpoint(path: Path, world: Axis, *, timeout_s: float = TIMEOUT_S) -> "Checkpoint":
    """Open the checkpoint at ``path``, ``RUN_DIR/checkpoints/step-00000100``, of this or another run, at any layout.

    Raises:
        UserError: there is none, or it is damaged; the file is named.
    """
    try:
        return _open(path, Peers(world, timeout_s))
    except Damaged as damage:
        if not (is_marked(path) or (path / MANIFEST).exists()):
            raise UserError(f"{path} is no checkpoint; give a folder like RUN_DIR/checkpoints/step-00000100.") from None
        raise UserError(f"checkpoint {path} is refused: {damage}; choose another one.") from None


def open_newest(path: Path, world: Axis, *, timeout_s: float = TIMEOUT_S) -> "Checkpoint":
    """Open a checkpoint, or the newest complete one of a run's directory.

    Raises:
        UserError: there is none, or it is damaged.
    """
    below = path / "checkpoints"
    if not below.is_dir():
        return open_checkpoint(path, world, timeout_s=timeout_s)
    newest = CheckpointStore(below, world=world, keep=1, timeout_s=timeout_s).newest()
    if newest is None:
        raise UserError(f"{path} has no complete checkpoint yet; wait for one, or name another directory.")
    return newest


def _open(folder: Path, peers: Peers) -> "Checkpoint":
    from megalm.checkpoint.checkpoint import open_intact

    return open_intact(folder, peers)
