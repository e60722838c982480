"""TensorBoard, by the event writer of the ``tensorboard`` package alone: no torch, no tensorflow."""

import json
import time
from pathlib import Path
from typing import Any

from megalm.extras import import_extra
from megalm.training.metric_names import tracked
from megalm.training.metrics import Row

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Events in ``RUN_DIR/tensorboard``.

    Each start writes a new file there; its first row tells readers to drop what older files hold from that step on, so
    that a resumed run shows each step once.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        def part(module: str) -> Any:
            return import_extra("tensorboard", "track.tensorboard: true", f"tensorboard.{module}")

        self._writers: Any = part("summary.writer.event_file_writer")
        self._events: Any = part("compat.proto.event_pb2")
        self._summaries: Any = part("compat.proto.summary_pb2")
        self._texts: Any = part("plugins.text.summary_v2")
        self._writer: Any = None
        self._purged = False

    def start(self, config: dict[str, Any], run_dir: Path, resumed: bool) -> None:
        """Open a new event file and show the run file as a text."""
        self._writer = self._writers.EventFileWriter(str(run_dir / FOLDER), flush_secs=10)
        lines = json.dumps(config, indent=2, default=str).splitlines()
        block = "\n".join(f"    {line}" for line in lines)  # four spaces: a code block of the text panel
        self._add(0, summary=self._texts.text_pb("run", block))
        self._purged = False

    def log(self, row: Row) -> None:
        """Write one update."""
        step = row["step"]
        if not self._purged:
            self._add(step, session_log=self._events.SessionLog(status=self._events.SessionLog.START))
            self._purged = True
        values = [self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in tracked(row).items()]
        self._add(step, summary=self._summaries.Summary(value=values))

    def finish(self) -> None:
        """Write what is still held back and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, **content))
