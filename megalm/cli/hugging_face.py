"""``megalm import`` and ``megalm export``: Hugging Face's directories in and out."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from megalm.cli.loading import loading
from megalm.errors import TrainingError, UserError
from megalm.launcher.exit_codes import FAILED
from megalm.launcher.local import launch
from megalm.launcher.placement import Placement, from_environment
from megalm.run_config import RunConfig

Precision = Literal["fp32", "bf16", "fp16", "fp64"]


def import_model(
    source: Annotated[Path, typer.Argument(metavar="HF_DIR", help="As save_pretrained writes it.", show_default=False)],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OUT [key.sub=value]...",
            help="The directory to make, and values of a run file: layout.tp=4 reads with four ranks.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print which slice of which file goes to which rank.")
    ] = False,
) -> int:
    """Make a checkpoint of a Hugging Face directory, for any layout, and compare its logits with transformers'."""
    out = [word for word in words or () if "=" not in word]
    overrides = [word for word in words or () if "=" in word]
    if len(out) != (0 if plan else 1):
        wanted = "no directory with --plan" if plan else "one directory to make"
        raise UserError(f"megalm import takes HF_DIR and {wanted}; see megalm import --help.")
    with loading():
        from megalm.hugging_face.importer import config_of, unused_store
        from megalm.mesh import Axis
    config = config_of(source, overrides)
    if plan:
        from megalm.hugging_face.plan import plan_lines

        for line in plan_lines(config, source):
            print(line)
        return 0
    placement = from_environment(os.environ)
    if placement is not None:
        return _import_rank(config, Path(out[0]), placement)
    if config.layout.world_size == 1:
        _import_rank(config, Path(out[0]), Placement.alone())
    else:
        unused_store(Path(out[0]), Axis.alone(), config.run.timeout)  # before ranks are started in vain
        command = [sys.executable, "-m", "megalm", "import", str(source), out[0], *overrides]
        outcome = launch(command, config.layout.world_size)
        if outcome.code:
            raise (UserError if outcome.code == 2 else TrainingError)(outcome.message)
    return _compared(Path(out[0]), source)


def _import_rank(config: RunConfig, out: Path, placement: Placement) -> int:
    import torch

    from megalm.hugging_face.importer import import_share
    from megalm.launcher import ranks
    from megalm.mesh import Mesh

    ranks.start(placement, "cpu", config.run.timeout)
    try:
        mesh = Mesh.build(config.layout, torch.device("cpu"), timeout_s=config.run.timeout)
        drawn = import_share(config, out, mesh)
        if drawn and mesh.rank == 0:
            print(f"the directory lacks {', '.join(drawn)}: drawn as a new run would")
    finally:
        ranks.stop()
    return 0


def _compared(out: Path, source: Path) -> int:
    """Say what was made and what transformers says of it; 1 if it says something else."""
    from megalm.checkpoint.store import open_newest
    from megalm.hugging_face.compare import compare
    from megalm.mesh import Axis

    checkpoint = open_newest(out, Axis.alone())
    found = compare(checkpoint, source, checkpoint.facts["config"]["train"]["precision"])
    print(checkpoint.folder)
    print(found.sentence)
    return 0 if found.agrees else FAILED


def export_model(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CKPT_DIR", help="A checkpoint, or a run's directory: its newest.", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(metavar="HF_DIR", help="The directory to make.", show_default=False)],
    precision: Annotated[
        Precision | None, typer.Option(help="Of the weights; that of the run by default.", show_default=False)
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Of a run of several tasks: its own model, or what is shared with its own head.", show_default=False
        ),
    ] = None,
) -> int:
    """Write a checkpoint as a directory that transformers loads, and compare its logits with transformers'."""
    from megalm.checkpoint.store import open_newest
    from megalm.hugging_face.compare import compare
    from megalm.hugging_face.exporter import export, run_of
    from megalm.mesh import Axis
    from megalm.training.chosen import choose

    given = open_newest(checkpoint, Axis.alone())
    found = compare(given, out, export(given, out, precision, task=task), task)
    print(out)
    if left_out := choose(run_of(given), task).left_out:
        print(f"heads of tasks that are left out: {', '.join(left_out)}; --task exports one of them")
    print(found.sentence)
    return 0 if found.agrees else FAILED
