"""``megalm launch slurm``: a run becomes a job."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from megalm.cli.arguments import Overrides, RunFile
from megalm.errors import UserError
from megalm.launcher.slurm.batch_file import TEMPLATE, Request
from megalm.launcher.slurm.job import BATCH_FILE, plan, submit
from megalm.launcher.slurm.shell import bash_word
from megalm.launcher.templates import read, template


def slurm(
    run_file: RunFile,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.", show_default=False)],
    time: Annotated[str, typer.Option(help="Limit: minutes, H:MM:SS or D-HH:MM:SS.", show_default=False)],
    overrides: Overrides = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="GPUs of each machine, a rank for each.", show_default=False)
    ] = None,
    ntasks_per_node: Annotated[
        int | None, typer.Option(min=1, help="Ranks of each machine, without GPUs.", show_default=False)
    ] = None,
    cpus_per_rank: Annotated[
        int | None, typer.Option(min=1, help="Processors of each rank.", show_default=False)
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.", show_default=False)] = None,
    account: Annotated[str | None, typer.Option(help="Slurm's account.", show_default=False)] = None,
    qos: Annotated[str | None, typer.Option(help="Slurm's quality of service.", show_default=False)] = None,
    container_image: Annotated[
        str | None, typer.Option(help="Start the ranks in this image, by pyxis.", show_default=False)
    ] = None,
    style: Annotated[
        Literal["tasks", "torchrun"], typer.Option(help="Slurm starts every rank, or torchrun on every machine.")
    ] = "tasks",
    array: Annotated[
        str | None,
        typer.Option(help="Numbers of an array's tasks, as 0-3; %a is the number in overrides.", show_default=False),
    ] = None,
    batch_template: Annotated[
        Path | None,
        typer.Option("--template", help="A batch file of your own to fill in.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch file and submit nothing.")] = False,
) -> int:
    """Submit the run to Slurm, where it outlives preemptions and lost nodes; the last line printed is the job's id."""
    if (gpus_per_node is None) == (ntasks_per_node is None):
        raise UserError("give either --gpus-per-node (a rank for each GPU) or --ntasks-per-node (ranks without GPUs).")
    request = Request(
        nodes,
        gpus_per_node or ntasks_per_node or 1,
        time,
        gpus=gpus_per_node is not None,
        style=style,
        cpus_per_rank=cpus_per_rank,
        partition=partition,
        account=account,
        qos=qos,
        container_image=container_image,
        array=array,
    )
    text = template(TEMPLATE) if batch_template is None else read(batch_template)
    planned = plan(text, request, run_file, overrides or (), Path.cwd())
    for sentence in planned.config.without_effect():
        print(f"megalm: {sentence}", file=sys.stderr)
    if dry_run:
        print(planned.text, end="")
        return 0
    job = submit(planned, request, run_file)
    run_dir = next(iter(planned.run_dirs.values()))
    print(f"submitted {run_dir / BATCH_FILE}" + (f" and {len(planned.run_dirs) - 1} more" if array else ""))
    for verb, what in (("status", "how far it is"), ("logs --follow", "what it prints"), ("stop", "save and end it")):
        print(f"megalm {verb} {bash_word(str(run_dir))}  # {what}")
    print(job)
    return 0
