"""``megalm launch``: starting a run on one machine or many, by the launcher that a cluster has."""

import os
import sys

import typer

from megalm.cli.arguments import Overrides, RunFile, load
from megalm.errors import UserError
from megalm.launcher.placement import from_environment
from megalm.launcher.restarts import run_ranks

app = typer.Typer(help="Start a run on one machine or many.", no_args_is_help=True)


@app.callback()
def launch() -> None:
    """Start a run on one machine or many."""


@app.command()
def local(run_file: RunFile, overrides: Overrides = None) -> int:
    """Start the processes of the layout on this machine and wait for them; one process has a launcher too."""
    if from_environment(os.environ) is not None:
        raise UserError("megalm launch local starts its own ranks; run it without torchrun, srun or mpirun.")
    config = load(run_file, overrides)
    command = [sys.executable, "-m", "megalm", "train", run_file, *(overrides or ())]
    return run_ranks(command, config.layout.world_size, config.run)
