"""The two arguments that most verbs take, and what they name: a run."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from megalm.errors import SaidByAnother, UserError
from megalm.launcher.placement import Placement
from megalm.launcher.torchrun.elastic import check_placed
from megalm.run_config import RunConfig

RunFile = Annotated[str, typer.Argument(metavar="RUN.yaml", help="The run file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key.sub=value]...", help="Values that replace those of the file.", show_default=False),
]


def load(run_file: str, overrides: Sequence[str] | None, placement: Placement | None = None) -> RunConfig:
    """Return the run that this process is a part of; all ranks refuse a bad one, and rank 0 says why."""
    try:
        config = RunConfig.load(run_file, overrides or ())
        if placement is not None:
            check_placed(config, placement.world_size)
    except UserError as error:
        if placement is not None and placement.rank:
            raise SaidByAnother(str(error)) from error
        raise
    for sentence in config.without_effect() if placement is None or placement.rank == 0 else ():
        print(f"megalm: {sentence}", file=sys.stderr)
    return config
