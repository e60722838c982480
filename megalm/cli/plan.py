"""``megalm plan``: the drawing of a run's pipeline."""

import shutil
from pathlib import Path

from megalm.errors import UserError
from megalm.parallel.pipeline.draw import draw_svg
from megalm.plan.schedule_view import schedule_view
from megalm.run_config import RunConfig

NAMES = 12
"""Columns that the ranks' names take."""


def show(config: RunConfig, width: int | None, svg: Path | None) -> int:
    """Print the schedule of a run, and write it as a picture too if asked.

    Args:
        config: the run.
        width: columns; 0 for as many as all words need, ``None`` for those of the terminal.
        svg: where to.

    Raises:
        UserError: the schedule does not fit the run, or the file cannot be written.
    """
    view = schedule_view(config)
    if svg is not None:
        try:
            svg.write_text(draw_svg(view.timetable, view.title), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write {svg} ({error.strerror}); name a file in a folder you may write to."
            ) from error
    columns = max(shutil.get_terminal_size().columns - NAMES, 40) if width is None else width
    print(view.text(columns or None))
    return 0
