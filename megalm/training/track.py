"""Trackers: services that show a run's metrics as it goes, behind one small protocol. One rank holds them."""

from pathlib import Path
from typing import Any, Protocol

from megalm.training.metrics import Row
from megalm.training.track_config import TrackConfig
from megalm.training.track_tensorboard import TensorBoardTracker
from megalm.training.track_wandb import WandbTracker


class Tracker(Protocol):
    """One service; its names are those of ``metric_names``."""

    def start(self, config: dict[str, Any], run_dir: Path, resumed: bool) -> None:
        """Begin, or go on with what this run directory showed before if ``resumed`` from a checkpoint.

        Args:
            config: the resolved run file.
            run_dir: where the service may keep files.
            resumed: whether the next row follows a checkpoint's step; false starts over at step 1.
        """

    def log(self, row: Row) -> None:
        """Show one update."""

    def finish(self) -> None:
        """Hand over what is still held back; call it however the run ends."""


def trackers(config: TrackConfig) -> list[Tracker]:
    """Return the services that the run file asks for, imported now so that a missing extra is told before training.

    Raises:
        UserError: an extra is not installed.
    """
    found: list[Tracker] = []
    if config.wandb:
        found.append(WandbTracker(config))
    if config.tensorboard:
        found.append(TensorBoardTracker())
    return found
