"""The batch file of a run under Slurm: the template of ``launch/`` with this run's values in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megalm.errors import UserError
from megalm.launcher.slurm.shell import bash_array, bash_word
from megalm.launcher.slurm.words import directive_value, log_name, seconds_of
from megalm.run_config import RunConfig

TEMPLATE = "slurm.sbatch"
MARGIN_S = 30
"""The job is asked to end so long before the ranks would end by themselves."""
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGTERM")
"""From the best: torchrun ends at once on the last, and gives its ranks 30 s."""


@dataclass(frozen=True)
class Request:
    """What is asked of Slurm.

    Args:
        nodes: machines.
        ranks_per_node: ranks on each.
        time: the limit, in Slurm's notation.
        gpus: whether each rank needs a GPU.
        style: ``tasks``: Slurm starts each rank; ``torchrun``: it starts torchrun on each node.
        cpus_per_rank: processors; ``None`` for what Slurm gives unasked: one.
        partition: where to; ``None`` leaves it to the template, or to Slurm.
        account: who pays; likewise.
        qos: which quality of service; likewise.
        container_image: what pyxis starts the ranks in; ``None`` without containers.
        array: numbers of the tasks of an array; ``None`` for a single job.
    """

    nodes: int
    ranks_per_node: int
    time: str
    gpus: bool = False
    style: Literal["tasks", "torchrun"] = "tasks"
    cpus_per_rank: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    container_image: str | None = None
    array: str | None = None


def batch_file(
    template: str, request: Request, config: RunConfig, words: Sequence[str], python: str, directory: Path
) -> str:
    """Return the text of the batch file.

    Args:
        template: see ``fill``.
        request: of Slurm.
        config: the run; in an array ``%a`` in ``run.dir`` is the number of the task.
        words: what ``megalm train`` gets: the run file and the overrides; likewise.
        python: the interpreter.
        directory: of the job, from which paths count.

    Raises:
        UserError: Slurm or the template cannot take it.
    """
    return fill(template, _directives(request, config, directory), _values(request, config, words, python, directory))


def log_pattern(request: Request) -> str:
    """Return the name of the job's log, in Slurm's letters."""
    return "slurm-%j.log" if request.array is None else "slurm-%A_%a.log"


def fill(template: str, directives: Mapping[str, str | None], values: Mapping[str, str]) -> str:
    """Return a template with options and variables in it.

    Args:
        template: a batch file that a person could submit.
        directives: value of each ``#SBATCH --NAME=``, in Slurm's quotes; an empty one has none, and ``None`` takes the
            line away. Options that are not named here stay as they are.
        values: of each variable, as bash reads it; its line begins with ``NAME=``.

    Raises:
        UserError: the template has no line for a variable, or no #SBATCH line.
    """
    lines, left, missing = [], dict(directives), set(values)
    last = 0
    for line in template.splitlines():
        option = re.match(r"#SBATCH\s+--([a-z-]+)", line)
        variable = re.match(r"([a-z_]+)=", line)
        if option and option[1] in directives:
            lines += _directive(option[1], left.pop(option[1], None))
        elif variable and variable[1] in missing:
            missing.remove(variable[1])
            lines.append(f"{variable[1]}={values[variable[1]]}")
        else:
            lines.append(line)
        if option:
            last = len(lines)
    if missing or not last:
        what = f"line that begins with {min(missing)}=" if missing else "#SBATCH line"
        raise UserError(f"the template has no {what}; take launch/{TEMPLATE} as it is and edit it anew.")
    lines[last:last] = [text for name, value in left.items() for text in _directive(name, value)]
    return "\n".join(lines) + "\n"


def _directive(name: str, value: str | None) -> list[str]:
    return [] if value is None else [f"#SBATCH --{name}{value and f'={value}'}"]


def _directives(request: Request, config: RunConfig, directory: Path) -> dict[str, str | None]:
    of_run = config.checkpoint.before_limit + MARGIN_S
    limit_s = seconds_of(request.time)
    if limit_s <= of_run:
        raise UserError(
            f"--time {request.time} leaves no time to train: the run is saved {of_run} s before the end "
            f"(checkpoint.before_limit={config.checkpoint.before_limit}, and {MARGIN_S} s); ask for more time or "
            "lower checkpoint.before_limit."
        )
    torchrun = request.style == "torchrun"
    cpus = request.cpus_per_rank or (1 if torchrun else None)
    log = log_name(str(directory), config.run.dir, log_pattern(request), array=request.array is not None)
    directives: dict[str, str | None] = {
        "job-name": job_name(config.run.dir),
        "chdir": directive_value(str(directory), "the directory"),
        "nodes": str(request.nodes),
        "ntasks-per-node": "1" if torchrun else str(request.ranks_per_node),
        "gpus-per-node": str(request.ranks_per_node) if request.gpus else None,
        "cpus-per-task": None if cpus is None else str(cpus * request.ranks_per_node if torchrun else cpus),
        "time": directive_value(request.time, "--time"),
        "signal": f"B:USR1@{of_run}",
        "requeue": "",
        "open-mode": "append",
        "output": directive_value(log, "run.dir"),
        "array": request.array,
    }
    for name in ("partition", "account", "qos"):  # a template of the site may name its own
        if (asked := getattr(request, name)) is not None:
            directives[name] = directive_value(asked, f"--{name}")
    return directives


def _values(request: Request, config: RunConfig, words: Sequence[str], python: str, directory: Path) -> dict[str, str]:
    container = []
    if request.container_image is not None:
        container = [
            f"--container-image={request.container_image}",
            f"--container-mounts={','.join(f'{path}:{path}' for path in _mounted(config, directory))}",
            f"--container-workdir={directory}",
        ]
    signal = next((name for name in SIGNALS if name in config.run.stop_signals), SIGNALS[-1])
    return {
        "python": bash_word(python),
        "run": bash_array(words),
        "run_dir": bash_word(config.run.dir),
        "style": request.style,
        "ranks_per_node": str(request.ranks_per_node),
        "srun_options": bash_array(container),
        "stop_signal": signal.removeprefix("SIG"),
        "max_restarts": "0" if request.style == "torchrun" else str(config.run.max_restarts),
    }


def _mounted(config: RunConfig, directory: Path) -> list[Path]:
    """Return what a container sees: the directory of the job, and that of the run where it lies elsewhere."""
    run_dir = directory / config.run.dir
    return [directory] if run_dir.is_relative_to(directory) else [directory, run_dir.parent]


def job_name(run_dir: str) -> str:
    """Return a name that no list of jobs and no script of a site takes for anything else."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(run_dir).name).strip("._-")[:60] or "megalm"
