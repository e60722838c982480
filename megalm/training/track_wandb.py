"""Weights & Biases; what ``track`` does not say its own environment does: ``WANDB_MODE=offline``, ``WANDB_ENTITY``."""

import secrets
from pathlib import Path
from typing import Any

from megalm.errors import UserError
from megalm.extras import import_extra
from megalm.training.metric_names import tracked
from megalm.training.metrics import Row
from megalm.training.track_config import TrackConfig

ID_FILE = "wandb-run-id"


class WandbTracker:
    """One wandb run for one run directory: its id is kept there, so that a resume goes on in the same run.

    Args:
        config: names the project, the run and its tags.

    Raises:
        UserError: wandb is not installed.
    """

    def __init__(self, config: TrackConfig) -> None:
        self._config = config
        self._wandb: Any = import_extra("wandb", "track.wandb: true")
        self._run: Any = None
        self._next_step = 0

    def start(self, config: dict[str, Any], run_dir: Path, resumed: bool) -> None:
        """Open the run.

        Raises:
            UserError: wandb refuses (no login, no network).
        """
        id_file = run_dir / ID_FILE
        goes_on = resumed and id_file.exists()
        run_id = id_file.read_text().strip() if goes_on else secrets.token_hex(4)
        id_file.write_text(f"{run_id}\n")
        try:
            self._run = self._wandb.init(
                project=self._config.project,
                name=self._config.name,
                tags=self._config.tags,
                config=config,
                dir=run_dir,
                id=run_id,
                resume="allow" if goes_on else None,
            )
        except self._wandb.Error as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise UserError(
                f"track.wandb: true, but wandb did not start ({reason}); run `wandb login`, or set WANDB_MODE=offline."
            ) from error
        self._next_step = self._run.step

    def log(self, row: Row) -> None:
        """Send one update; one that the service already has from before a crash is not sent again."""
        if row["step"] >= self._next_step:
            self._run.log(tracked(row), step=row["step"])

    def finish(self) -> None:
        """Close the run, waiting until what was logged is sent or on the disk."""
        if self._run is not None:
            self._run.finish()
            self._run = None
