"""What each rank did when: with ``run.trace``, one JSON line a step in ``RUN_DIR/trace/rank-00003.jsonl``."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from megalm import collectives
from megalm.errors import UserError
from megalm.mesh import Mesh
from megalm.parallel.pipeline.action import Action
from megalm.parallel.pipeline.engine import Engine
from megalm.training.line_file import LineFile
from megalm.training.trace_files import file_of


class Trace:
    """One rank's record of a run; a resume begins it anew.

    Times are seconds of a clock that starts at 0 when all ranks have met, so that those of different machines can be
    laid beside one another.

    Args:
        run_dir: the run's directory.
        mesh: this rank's axes; every rank makes its trace at the same moment.
        engine: the engine that is recorded.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, run_dir: Path, mesh: Mesh, engine: Engine) -> None:
        """See the class."""
        path = file_of(run_dir, mesh.rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{path.parent} cannot be made ({error.strerror}); mend that or set run.trace=false."
            ) from error
        self._file = LineFile(path)
        self._file.cut(0)
        self._actions: list[tuple[str, float, float]] = []
        engine.record = self._record
        engine.now = _clock(mesh.device)
        collectives.barrier(mesh.world)
        self._origin = engine.now()

    def step(self, step: int) -> None:
        """Write what was done since the last call as the actions of ``step``."""
        self._file.write(json.dumps({"step": step, "actions": self._actions}))
        self._actions.clear()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _record(self, action: Action, start: float, end: float) -> None:
        self._actions.append((str(action), round(start - self._origin, 7), round(end - self._origin, 7)))


@contextmanager
def traced(run_dir: Path | None, mesh: Mesh, engine: Engine | None) -> Iterator[Callable[[int], None]]:
    """Record what the engine does within this context; what it gives is called at the end of each step.

    Args:
        run_dir: the run's directory; ``None`` records nothing.
        mesh: this rank's axes.
        engine: the engine that is recorded; ``None`` records nothing.
    """
    if run_dir is None or engine is None:
        yield lambda step: None
        return
    trace = Trace(run_dir, mesh, engine)
    try:
        yield trace.step
    finally:
        trace.close()


def _clock(device: torch.device) -> Callable[[], float]:
    """Return a clock that has waited for what the device still computes."""
    if device.type == "cpu":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
