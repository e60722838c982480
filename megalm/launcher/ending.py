"""How a run ended, in its own words: one line in ``RUN_DIR/ended``, which is there only after an end.

A launcher between the ranks and the shell may hide their exit code: torchrun ends with 1 where they ended with 75.
"""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from megalm.whole_text import replace_text

FILE = "ended"


class Ending(NamedTuple):
    """The end of a run.

    Args:
        code: its exit code.
        text: why, in one line.
    """

    code: int
    text: str

    def write(self, run_dir: Path) -> None:
        """Replace the file whole; a full disk does not hide why a run ended."""
        with contextlib.suppress(OSError):
            replace_text(run_dir / FILE, f"{self.code} {' '.join(self.text.split())}\n")

    @staticmethod
    def read(run_dir: Path) -> "Ending | None":
        """Return how the newest run ended, or ``None`` where it told nothing, as while it runs."""
        try:
            match = re.fullmatch(r"(\d{1,3}) (.*)\n", (run_dir / FILE).read_text())
        except (OSError, UnicodeDecodeError):
            return None
        return match and Ending(int(match[1]), match[2])

    @staticmethod
    def forget(run_dir: Path) -> None:
        """Take away what an earlier run has told."""
        with contextlib.suppress(OSError):
            (run_dir / FILE).unlink(missing_ok=True)
