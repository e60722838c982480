"""What was launched for a run: the small file by which its status is asked and by which it is stopped."""

import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from megalm.errors import UserError
from megalm.whole_text import replace_text

FILE = "job.json"
LAUNCHED = "MEGALM_JOB"
"""Set where a launcher has written the file already: a lone rank that it starts is no launcher of its own."""


@dataclass(frozen=True)
class Job:
    """The newest launch of a run, in ``RUN_DIR/job.json``.

    Args:
        launcher: ``local``, ``torchrun``, ``slurm``, ``mpi`` or ``ssh``.
        id: Slurm's job id; else the process id of the launcher, which hands signals on to the ranks.
        host: where that process runs, or where the job was submitted.
        log: the file that has what the ranks print, from the run directory; ``None`` where that is a terminal's.
    """

    launcher: str
    id: str
    host: str
    log: str | None = None

    @staticmethod
    def here(launcher: str) -> "Job":
        """Return the launch whose launcher is this process."""
        return Job(launcher, str(os.getpid()), platform.node())

    def write(self, run_dir: Path) -> None:
        """Replace the file whole.

        Raises:
            UserError: it cannot be written.
        """
        path = run_dir / FILE
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps(asdict(self)) + "\n")
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}); mend that or choose another run.dir."
            ) from error

    @staticmethod
    def read(run_dir: Path) -> "Job | None":
        """Return what was launched last, or ``None`` where nothing was."""
        with suppress(FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return Job(**json.loads((run_dir / FILE).read_text()))
        return None
