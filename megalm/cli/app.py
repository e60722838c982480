"""The verbs of ``megalm``. What computes is imported when its verb runs, so that typing a command is quick."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from megalm import __version__
from megalm.cli import data, generation, hugging_face, launch, runs
from megalm.cli.arguments import Overrides, RunFile, load
from megalm.cli.loading import loading
from megalm.cli.reference import run_file_reference
from megalm.errors import UserError, suggestion
from megalm.launcher.job import LAUNCHED, Job
from megalm.launcher.placement import Placement, from_environment
from megalm.launcher.restarts import run_ranks
from megalm.not_built import VERBS
from megalm.run_config import RunConfig

app = typer.Typer(
    name="megalm",
    help="Train language models over many processes, where no layout changes the result.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(launch.app, name="launch")
app.command("generate")(generation.generate)
app.command("eval")(generation.evaluate)
app.command("import")(hugging_face.import_model)
app.command("export")(hugging_face.export_model)


@app.callback(invoke_without_command=True)
def megalm(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Train language models over many processes, where no layout changes the result."""
    if version:
        print(f"megalm {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def train(run_file: RunFile, overrides: Overrides = None) -> int:
    """Train the model of a run file; the same command goes on where it stopped.

    Starts the processes of the layout here, or takes its place under torchrun, srun or mpirun.
    """
    placement = from_environment(os.environ)
    config = load(run_file, overrides, placement)
    world_size = config.layout.world_size
    if placement is None and LAUNCHED not in os.environ:
        Job.here("local").write(Path(config.run.dir))
    if placement is None and (world_size > 1 or config.run.max_restarts):
        command = [sys.executable, "-m", "megalm", "train", run_file, *(overrides or ())]
        return run_ranks(command, world_size, config.run)
    with loading():
        from megalm.training.loop import train as train_here

    return train_here(config, placement or Placement.alone())


@app.command()
def verify(
    run_file: RunFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to compare.")] = 3,
    scale: Annotated[
        float, typer.Option(min=0, max=1, help="Shrink the model's depth and width by this factor.")
    ] = 1.0,
    fp32: Annotated[bool, typer.Option("--fp32", help="Judge loss and gradients in fp32.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Judge loss and gradients in bf16.")] = False,
) -> int:
    """Compare a layout with one process, tensor by tensor, in float64; exit code 1 names the first that disagrees."""
    if fp32 and bf16:
        raise UserError("--fp32 and --bf16 exclude one another; give one of them, or none for float64.")
    if not scale:
        raise UserError("--scale must be above 0, not 0.")
    if from_environment(os.environ) is not None:
        raise UserError("megalm verify starts its own ranks on this machine; run it without torchrun, srun or mpirun.")
    config = load(run_file, overrides, None)
    from megalm.verify.command import run as verify_here

    return verify_here(config, steps, scale, "fp32" if fp32 else "bf16" if bf16 else "fp64")


@app.command()
def plan(
    run_file: RunFile,
    overrides: Overrides = None,
    show_schedule: Annotated[bool, typer.Option("--show-schedule", help="Draw what the pipeline's ranks do.")] = False,
    width: Annotated[
        int | None, typer.Option(min=0, help="Columns of the drawing; 0 for as many as all words need.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Also write the drawing to this file.", show_default=False)] = None,
) -> int:
    """Show, without running anything, how a run's layers are cut and in which order its pipeline works."""
    if not show_schedule:
        raise UserError("megalm plan only draws schedules so far; add --show-schedule.")
    from megalm.cli.plan import show

    return show(load(run_file, overrides, None), width, svg)


@app.command(hidden=True)
def verify_rank(job: Annotated[Path, typer.Argument(metavar="JOB_DIR", show_default=False)]) -> int:
    """Run one rank of a comparison; ``verify`` starts it."""
    with loading():
        from megalm.verify.command import probe_rank

    return probe_rank(job, from_environment(os.environ))


@app.command(hidden=True)
def node(link_timeout: Annotated[float, typer.Option(min=1)]) -> int:
    """Start one machine's ranks, as the launcher at the other end of stdin says; ``launch ssh`` starts it."""
    from megalm.launcher.ssh.node import serve

    return serve(__version__, link_timeout)


@app.command("export-ds")
def export_ds(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT_DIR", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    run: Annotated[
        str | None, typer.Option(help="The run file, of a model of one's own only.", show_default=False)
    ] = None,
) -> int:
    """Write a checkpoint as a universal one of DeepSpeed's: DIR/zero/NAME/fp32.pt and so on."""
    from megalm.training.deepspeed_files import export_deepspeed

    count = export_deepspeed(checkpoint, folder, None if run is None else RunConfig.load(run))
    print(f"{count} parameters in {folder / 'zero'}")
    return 0


@app.command("import-ds")
def import_ds(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    directory: Annotated[Path, typer.Argument(metavar="OUT", show_default=False)],
    run: Annotated[str, typer.Option(help="The run file that goes on from it; it says the model.", show_default=False)],
) -> int:
    """Make a checkpoint in OUT of a universal one of DeepSpeed's, for checkpoint.load, and print its folder."""
    from megalm.training.deepspeed_files import import_deepspeed

    print(import_deepspeed(folder, directory, RunConfig.load(run)))
    return 0


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", show_default=False)]) -> int:
    """Write a run's report.html anew and print its path."""
    from megalm.training.report import write_report

    print(write_report(run_dir))
    return 0


@app.command()
def status(run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", show_default=False)]) -> int:
    """Tell of a run whether it waits, runs or has ended, and how far it is."""
    for line in runs.status(run_dir):
        print(line)
    return 0


@app.command()
def stop(run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", show_default=False)]) -> int:
    """Ask a run to save and to end; it is not waited for, and the command that began it goes on later."""
    print(runs.stop(run_dir))
    return 0


@app.command()
def logs(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", show_default=False)],
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has ended, over all requeues.")] = False,
    lines: Annotated[int, typer.Option(min=0, help="How many lines of what is there already.")] = 20,
) -> int:
    """Print the end of what a run has printed."""
    for text in runs.logs(run_dir, lines, follow):
        print(text, end="", flush=True)
    return 0


@app.command()
def doctor() -> int:
    """Check this machine: versions, devices, process groups, disk, optional packages."""
    from megalm.doctor import run_doctor

    return run_doctor()


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference of docs/run-file.md.")] = False,
) -> int:
    """Print the JSON schema of the run file."""
    print(run_file_reference() if markdown else json.dumps(RunConfig.model_json_schema(), indent=2))
    return 0


def invoke(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code.

    Raises:
        UserError: the command line is not understood, or what its verb refuses.
        TrainingError: a run that cannot go on.
    """
    command = typer.main.get_command(app)
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    if verb in VERBS:
        raise UserError(f"megalm {verb} is not built yet; megalm --help lists the verbs that are.")
    verbs = [*command.commands, *VERBS]  # type: ignore[attr-defined]
    if verb is not None and verb not in verbs:
        raise UserError(f"megalm has no verb {verb!r}{suggestion(verb, verbs) or '; megalm --help lists them.'}")
    try:
        with command.make_context("megalm", list(arguments), obj=list(arguments)) as context:
            code = command.invoke(context)
    except typer.TyperException as error:
        raise UserError(_usage_sentence(error.format_message(), verb)) from error
    except typer.Exit as end:
        code = end.exit_code
    return code if isinstance(code, int) else 0


def _usage_sentence(message: str, verb: str | None) -> str:
    if "\n" in message:  # a whole help page is typer's answer to a verb without its second word
        return f"megalm {verb} needs one more word; see megalm {verb} --help."
    return message if message.endswith("?") else f"{message.rstrip('.')}; see megalm {verb or ''} --help."
