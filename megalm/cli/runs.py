"""``megalm status``, ``stop`` and ``logs``: a run that was launched, seen and ended by its directory."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from megalm import run_file
from megalm.checkpoint.folders import Folders, step_of
from megalm.checkpoint.manifest import is_marked
from megalm.errors import UserError
from megalm.launcher.job import Job
from megalm.launcher.look import FILE as VERDICT
from megalm.launcher.run_state import RunState, state_of
from megalm.launcher.run_state import stop as stop_run
from megalm.training.log_tail import Tail
from megalm.training.metrics import Row, last_row
from megalm.watch.place import FOLDER as RANKS
from megalm.watch.place import read_positions
from megalm.watch.screen import where, who

TRACES = ("metrics.jsonl", "log.txt", "run.yaml", "checkpoints")
MOST_RANKS = 16
LOOK_S = 0.5
ASK_S, ASK_SLURM_S = 1.0, 10.0
"""Between two questions whether a run that prints nothing still runs; Slurm's controller answers many people."""


def status(run_dir: Path) -> Iterator[str]:
    """Yield what there is to say of a run: where it was launched, what it does, how far it is.

    Raises:
        UserError: it is not the directory of a run.
    """
    job = _job(run_dir)
    yield f"{run_dir}: {_launched(job)}"
    state = _state(job, run_dir)
    yield state.text
    yield _steps(run_dir)
    saved = [step_of(folder) for folder in Folders(run_dir / "checkpoints").candidates() if is_marked(folder)]
    yield f"newest checkpoint: step {saved[0]}" if saved else "no checkpoint yet"
    if state.kind in ("runs", "elsewhere"):
        yield from _ranks(run_dir)
    if (run_dir / VERDICT).is_file():
        yield f"why it did not go on, from {run_dir / VERDICT}:"
        yield (run_dir / VERDICT).read_text(errors="replace").rstrip()


def stop(run_dir: Path) -> str:
    """Ask a run to save and to end; return what was done.

    Raises:
        UserError: there is no launched run, or it cannot be asked from here.
    """
    job = _job(run_dir)
    if job is None:
        raise UserError(
            f"{run_dir} was started by another launcher than megalm's; end it with that, or by SIGTERM to a rank."
        )
    signals = _resolved(run_dir).get("run", {}).get("stop_signals", ["SIGTERM"])
    return stop_run(job, run_dir, signals)


def logs(run_dir: Path, lines: int, follow: bool) -> Iterator[str]:
    """Yield the last lines of a run's output, and with ``follow`` what comes until it has ended, over all requeues.

    Raises:
        UserError: it is not the directory of a run, or there is no output yet.
    """
    path = _log(run_dir)
    if not path.is_file() and not follow:
        raise UserError(f"{path} is not there yet: {_state(_job(run_dir), run_dir).text}; add --follow to wait for it.")
    tail = Tail(path)
    yield tail.last(lines)
    asked = 0.0
    while follow:
        if text := tail.more():
            yield text
            continue
        job = _job(run_dir)
        if time.monotonic() - asked > (ASK_SLURM_S if job is not None and job.launcher == "slurm" else ASK_S):
            asked = time.monotonic()
            if _state(job, run_dir).kind not in ("waits", "runs"):
                yield tail.more()
                return
            tail.turn_to(_log(run_dir))
        time.sleep(LOOK_S)


def _job(run_dir: Path) -> Job | None:
    job = Job.read(run_dir)
    if job is None and not any((run_dir / name).exists() for name in TRACES):
        raise UserError(f"{run_dir} is not the directory of a run; name the run.dir of one.")
    return job


def _launched(job: Job | None) -> str:
    if job is None:
        return "started by another launcher than megalm's"
    if job.launcher == "slurm":
        return f"job {job.id} of Slurm, submitted on {job.host}"
    return f"launched by {job.launcher} on {job.host}, process {job.id}"


def _state(job: Job | None, run_dir: Path) -> RunState:
    if job is None:
        return RunState("elsewhere", "whether it runs is not known here")
    return state_of(job, run_dir)


def _log(run_dir: Path) -> Path:
    job = Job.read(run_dir)
    return run_dir / (job.log if job is not None and job.log is not None else "log.txt")


def _steps(run_dir: Path) -> str:
    path = run_dir / "metrics.jsonl"
    row: Row | None = last_row(path)
    if row is None:
        return "no step yet"
    total = _resolved(run_dir).get("train", {}).get("steps")
    of = f" of {total}" if total else ""
    ago = timedelta(seconds=max(0, round(time.time() - path.stat().st_mtime)))
    loss = "not finite" if row.get("loss") is None else f"{row['loss']:.4f}"
    return f"step {row['step']}{of}, loss {loss}, {ago} ago"


def _ranks(run_dir: Path) -> Iterator[str]:
    """Yield where the first ranks are, a line each."""
    positions = read_positions(run_dir)
    for rank in sorted(positions)[:MOST_RANKS]:
        yield f"{who(positions[rank])}: {where(positions[rank], time.time())}"
    if len(positions) > MOST_RANKS:
        yield f"and {len(positions) - MOST_RANKS} more ranks, in {run_dir / RANKS}"


def _resolved(run_dir: Path) -> dict[str, Any]:
    """Return the run file of the run, or nothing where it has not begun."""
    try:
        return run_file.read(run_dir / "run.yaml")
    except UserError:
        return {}
