"""Whether a launched run is at work, and how it is asked to end, for every launcher alike."""

import os
import platform
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from megalm.errors import UserError
from megalm.launcher.ending import Ending
from megalm.launcher.job import FILE, Job
from megalm.launcher.slurm import queue
from megalm.watch.processes import age_s

CLOCK_S = 2.0
"""A process that wrote a file began before the file was there; clocks of files and processes differ by less."""


class RunState(NamedTuple):
    """What a launched run does now.

    Args:
        kind: ``waits`` to start, ``runs``, ``ended``, or ``elsewhere``: only its own host can tell.
        text: the same in words.
    """

    kind: Literal["waits", "runs", "ended", "elsewhere"]
    text: str


def state_of(job: Job, run_dir: Path) -> RunState:
    """Return what a run does.

    Args:
        job: its newest launch.
        run_dir: its directory.

    Raises:
        UserError: Slurm cannot be asked here.
    """
    if job.launcher == "slurm":
        return _state_in_slurm(job, run_dir)
    if job.host != platform.node():
        return RunState("elsewhere", f"started on host {job.host}, which alone knows whether it still runs")
    if _is_launcher(int(job.id), run_dir / FILE):
        return RunState("runs", f"running: process {job.id} on {job.host}")
    return RunState("ended", _ended(run_dir))


def stop(job: Job, run_dir: Path, stop_signals: Sequence[str]) -> str:
    """Ask a run to save and to end, without waiting for it, and return what was done in one sentence.

    Args:
        job: its newest launch.
        run_dir: its directory.
        stop_signals: ``run.stop_signals``.

    Raises:
        UserError: it cannot be asked from here.
    """
    state = state_of(job, run_dir)
    if state.kind == "elsewhere":
        raise UserError(f"{run_dir} was started on host {job.host}; type megalm stop {run_dir} there.")
    if state.kind == "ended":
        return f"{run_dir} does not run: {state.text}."
    if state.kind == "waits":
        queue.withdraw(job.id)
        return f"job {job.id} was taken out of Slurm's queue."
    if job.launcher == "slurm":
        queue.ask_to_end(job.id)
        return (
            f"job {job.id} was asked to save and to end; it will not be requeued, and megalm status tells when it is."
        )
    name = "SIGTERM" if "SIGTERM" in stop_signals or not stop_signals else stop_signals[0]
    try:
        os.kill(int(job.id), signal.Signals[name])
    except PermissionError as error:
        raise UserError(f"process {job.id} belongs to another user, who alone may stop it.") from error
    except ProcessLookupError:
        return f"{run_dir} has just ended."
    return f"process {job.id} was asked to save and to end; megalm status tells when it has."


def _state_in_slurm(job: Job, run_dir: Path) -> RunState:
    state = queue.state_of(job.id)
    if state.waits:
        reason = f" ({state.reason})" if state.reason else ""
        return RunState("waits", f"{state.name.lower()}{reason}")
    if state.works:
        return RunState("runs", f"{state.name.lower()} on {state.nodes}" if state.nodes else state.name.lower())
    slurms = f"; Slurm says {state.name}" if state.name else ""
    return RunState("ended", _ended(run_dir) + slurms)


def _ended(run_dir: Path) -> str:
    ending = Ending.read(run_dir)
    if ending is None:
        return "ended without a word, as when it is killed"
    return f"ended with exit code {ending.code}: {ending.text}"


def _is_launcher(pid: int, file: Path) -> bool:
    """Return whether a process runs and began before the file was written: a later one only has the same number."""
    age = age_s(pid)
    return age is not None and age >= time.time() - file.stat().st_mtime - CLOCK_S
