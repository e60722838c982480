"""A run becomes a job of Slurm, or each task of an array does: checked, written, submitted, remembered."""

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from megalm import run_file as run_files
from megalm.errors import UserError
from megalm.launcher.job import Job
from megalm.launcher.nodes import check_nodes
from megalm.launcher.slurm import queue
from megalm.launcher.slurm.batch_file import Request, batch_file, log_pattern
from megalm.launcher.slurm.words import tasks_of
from megalm.run_config import RunConfig

BATCH_FILE = "slurm.sbatch"
RUN_FILE = "launched.yaml"
"""The run file as it was when the run was launched; a job may wait for days, and reads this."""
TASK = "%a"
"""In an array: the number of the task."""


class Planned(NamedTuple):
    """What is to be submitted.

    Args:
        text: of the batch file.
        run_dirs: of the run, or of each task of the array with its number.
        config: of the run, or of the array's first task.
    """

    text: str
    run_dirs: dict[int | None, Path]
    config: RunConfig


def plan(template: str, request: Request, run_file: str, overrides: Sequence[str], directory: Path) -> Planned:
    """Return what is to be submitted; every run is checked, and nothing is written.

    Args:
        template: of the batch file.
        request: of Slurm.
        run_file: its path, from ``directory``.
        overrides: of its values, with ``%a`` for the number of an array's task.
        directory: of the job.

    Raises:
        UserError: a run is refused, or does not fit the nodes, or the tasks of an array share a run directory.
    """
    numbers: list[int | None] = [None] if request.array is None else list(tasks_of(request.array))
    pattern = _run_dir(run_file, overrides, numbers[0])
    if request.array is not None and TASK not in pattern:
        raise UserError(
            f"the tasks of an array would share run.dir={pattern}; put {TASK}, their number, into it: run.dir="
            f"{pattern}-{TASK}."
        )
    words = [*(word for word in overrides if not _says_run_dir(word)), f"run.dir={_yaml(pattern)}"]
    first: RunConfig | None = None
    run_dirs = {}
    for number in numbers:
        config = RunConfig.load(run_file, [_numbered(word, number) for word in words])
        check_nodes(config.layout, [request.ranks_per_node] * request.nodes, config.tensor.across_nodes)
        run_dirs[number] = directory / config.run.dir
        first = first or config
    assert first is not None
    shown = first.model_copy(update={"run": first.run.model_copy(update={"dir": pattern})})
    python = "python3" if request.container_image is not None else sys.executable
    launched = f"{'./' if pattern.startswith('-') else ''}{pattern}/{RUN_FILE}"  # and no option
    text = batch_file(template, request, shown, [launched, *words], python, directory)
    return Planned(text, run_dirs, first)


def submit(planned: Planned, request: Request, run_file: str) -> str:
    """Write the run directories, submit, and return the job's id.

    Raises:
        UserError: a run is on its way already, Slurm refuses the job, or a file cannot be written.
    """
    for run_dir in planned.run_dirs.values():
        _refuse_a_second(run_dir)
    if request.container_image is not None and not queue.knows_containers():
        raise UserError("this Slurm's srun has no --container-image; its administrators would have to install pyxis.")
    queue.check(planned.text)
    text = Path(run_file).read_bytes()
    for run_dir in planned.run_dirs.values():
        _write(run_dir / BATCH_FILE, planned.text.encode("utf-8", "surrogateescape"))
        _write(run_dir / RUN_FILE, text)
    job = queue.submit(str(next(iter(planned.run_dirs.values())) / BATCH_FILE))
    log = log_pattern(request).replace("%j", job).replace("%A", job)
    for number, run_dir in planned.run_dirs.items():
        own = job if number is None else f"{job}_{number}"
        Job("slurm", own, platform.node(), _numbered(log, number)).write(run_dir)
    return job


def _run_dir(run_file: str, overrides: Sequence[str], number: int | None) -> str:
    """Return ``run.dir`` with the ``%a`` of an array still in it."""
    kept = [word if _says_run_dir(word) else _numbered(word, number) for word in overrides]
    return RunConfig.load(run_file, kept).run.dir


def _says_run_dir(override: str) -> bool:
    return override.partition("=")[0].strip() == "run.dir"


def _numbered(word: str, number: int | None) -> str:
    return word if number is None else word.replace(TASK, str(number))


def _yaml(text: str) -> str:
    """Return a text as a value of YAML: as it is where that is read as the same text."""
    try:
        same = run_files.parse(text, "") == text
    except UserError:
        same = False
    return text if same else json.dumps(text, ensure_ascii=False)


def _refuse_a_second(run_dir: Path) -> None:
    job = Job.read(run_dir)
    if job is not None and job.launcher == "slurm":
        state = queue.state_of(job.id)
        if state.waits or state.works:
            raise UserError(
                f"{run_dir} belongs to job {job.id}, which is {state.name}; end it first (megalm stop {run_dir}) or "
                "choose another run.dir."
            )


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); mend that or choose another run.dir.") from error
