"""``megalm launch``: starting a run on one machine or many, by the launcher that a cluster has."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from megalm import __version__
from megalm.cli import launch_slurm
from megalm.cli.arguments import Overrides, RunFile, load
from megalm.errors import UserError
from megalm.launcher.hostfile import read_hostfile
from megalm.launcher.job import Job
from megalm.launcher.placement import from_environment, is_alone_here
from megalm.launcher.restarts import run_ranks
from megalm.run_config import RunConfig

app = typer.Typer(help="Start a run on one machine or many.", no_args_is_help=True)


app.command("slurm")(launch_slurm.slurm)


@app.callback()
def launch() -> None:
    """Start a run on one machine or many."""


@app.command()
def local(run_file: RunFile, overrides: Overrides = None) -> int:
    """Start the processes of the layout on this machine and wait for them; one process has a launcher too."""
    config = _load("local", run_file, overrides)
    Job.here("local").write(Path(config.run.dir))
    command = [sys.executable, "-m", "megalm", "train", run_file, *(overrides or ())]
    return run_ranks(command, config.layout.world_size, config.run)


@app.command()
def torchrun(
    run_file: RunFile,
    overrides: Overrides = None,
    nodes: Annotated[
        str, typer.Option("--nnodes", help="Number of nodes, or MIN:MAX of an elastic run.", show_default=True)
    ] = "1",
    ranks_per_node: Annotated[
        int | None,
        typer.Option(
            "--nproc-per-node", min=1, help="Ranks of each node; by default what the layout needs.", show_default=False
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--rdzv-endpoint", help="HOST:PORT of the node where all meet; not needed for one.", show_default=False
        ),
    ] = None,
    rdzv_id: Annotated[str, typer.Option(help="Tells runs apart that meet at the same place.")] = "megalm",
    local_addr: Annotated[
        str | None,
        typer.Option(help="This node's address; by default the one towards the meeting place.", show_default=False),
    ] = None,
    rdzv_conf: Annotated[
        str, typer.Option(help="More for torchrun's --rdzv-conf: KEY=VALUE,...", show_default=False)
    ] = "",
) -> int:
    """Run torchrun on this node with megalm train as its program; give the same command on every node."""
    if not is_alone_here(os.environ):
        raise UserError("megalm launch torchrun starts its own ranks; run it once a node, without torchrun or mpirun.")
    config = load(run_file, overrides)
    from megalm.launcher.torchrun.launch import run as run_torchrun

    train = [run_file, *(overrides or ())]
    return run_torchrun(config, train, nodes, ranks_per_node, endpoint, rdzv_id, local_addr, rdzv_conf)


@app.command()
def mpi(
    run_file: RunFile,
    overrides: Overrides = None,
    num_ranks: Annotated[
        int | None, typer.Option("--np", "-n", min=1, help="Ranks; by default those of the layout.", show_default=False)
    ] = None,
    hostfile: Annotated[
        Path | None,
        typer.Option(help="The machines: a line 'host slots=N' for each; by default this one.", show_default=False),
    ] = None,
    program: Annotated[
        str | None,
        typer.Option("--mpirun", help="The mpirun to use; by default this environment's.", show_default=False),
    ] = None,
) -> int:
    """Run mpirun, MPICH's or Open MPI's, with megalm train as its program, and wait for it."""
    config = _load("mpi", run_file, overrides)
    from megalm.launcher.mpi.mpirun import run as run_mpirun

    hosts = read_hostfile(hostfile) if hostfile is not None else []
    return run_mpirun(config, [run_file, *(overrides or ())], program, num_ranks, hosts)


@app.command()
def ssh(
    run_file: RunFile,
    overrides: Overrides = None,
    hostfile: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="The machines, a line 'host slots=N' each; filled in order.", show_default=False
        ),
    ] = ...,  # type: ignore[assignment]
    ssh: Annotated[str, typer.Option(metavar="COMMAND", help="The ssh to use, with options of yours.")] = "ssh",
    python: Annotated[
        str, typer.Option(help="The Python of megalm there; by default as here.", show_default=False)
    ] = sys.executable,
    chdir: Annotated[
        str | None, typer.Option(metavar="DIR", help="The directory there; by default as here.", show_default=False)
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="One more variable that the ranks get from here.", show_default=False),
    ] = None,
    link_timeout: Annotated[
        float, typer.Option(min=2, help="Seconds of silence after which a machine is lost and ends its ranks.")
    ] = 30.0,
) -> int:
    """Start the ranks on the machines of a hostfile and wait for them; they end when this command is gone."""
    config = _load("ssh", run_file, overrides)
    from megalm.launcher.ssh.launch import run as run_ssh

    train = [python, "-m", "megalm", "train", run_file, *(overrides or ())]
    hosts = read_hostfile(hostfile)
    return run_ssh(config, train, hosts, ssh, chdir or os.getcwd(), env or (), link_timeout, __version__)


def _load(launcher: str, run_file: str, overrides: Sequence[str] | None) -> RunConfig:
    """Return the run; a launcher below another one would start all ranks once for each rank of that."""
    if from_environment(os.environ) is not None:
        raise UserError(
            f"megalm launch {launcher} starts its own ranks; run it once, without torchrun, srun or mpirun."
        )
    return load(run_file, overrides)
