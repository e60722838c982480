"""What ``megalm launch torchrun`` and the ranks below it tell one another, over the head of torchrun's agent.

The agent between them knows of a rank only whether it ended with 0, and takes everything else for a failure that it
may mend by starting the rank again. So the ranks of a run that was asked to end, saved and is not to be started again
end with 0 under this launcher, and leave a note by which the launcher returns 75. The notes are files in a folder of
this machine that goes with the launcher.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from megalm.launcher.exit_codes import PREEMPTED
from megalm.whole_text import replace_text

FOLDER = "MEGALM_AGENT_DIR"
"""Set by the launcher: the folder of the notes."""
AGENT = "MEGALM_AGENT_PID"
"""Set by the agent: its process id, with which its ranks die."""
TERMINATED = "SIGTERM"


class Notes:
    """The notes of one ``megalm launch torchrun`` and its ranks.

    Args:
        folder: it is there.
    """

    def __init__(self, folder: Path) -> None:
        """See the class."""
        self._folder = folder
        self._asked, self._saved, self._refused = (folder / name for name in ("asked", "saved", "refused"))

    @staticmethod
    def of(env: Mapping[str, str]) -> "Notes | None":
        """Return those of the launcher that started this process; ``None`` under another one."""
        return Notes(Path(env[FOLDER])) if FOLDER in env else None

    def ask(self, why: str) -> None:
        """Ask the run to save and to end; the ranks that are not there yet will read it too."""
        replace_text(self._asked, why)

    def asked(self) -> str | None:
        """Return why the run is to end, or ``None``."""
        with suppress(FileNotFoundError):
            return self._asked.read_text()
        return None

    def begin(self) -> None:
        """Note that this process is a rank, and that the run is under way again."""
        self._saved.unlink(missing_ok=True)
        self._refused.unlink(missing_ok=True)
        (self._folder / f"rank-{os.getpid()}").touch()

    def ranks(self) -> list[int]:
        """Return the process ids of the ranks that run on this machine; one that still imports is not there yet."""
        found = []
        for note in self._folder.glob("rank-*"):
            pid = int(note.name.removeprefix("rank-"))
            with suppress(ProcessLookupError):
                os.kill(pid, 0)
                found.append(pid)
        return found

    def code(self, code: int, reason: str | None, *, elastic: bool) -> int:
        """Return the exit code by which the agent does what is right with a rank that ended in order.

        Args:
            code: 0, or 75 for a run that was asked to end and saved.
            reason: what asked.
            elastic: whether SIGTERM, which the agent sends when the number of machines changes, starts the rank again.
        """
        if code != PREEMPTED:
            return code
        self._saved.touch()
        return PREEMPTED if elastic and reason == TERMINATED else 0

    def refuse(self) -> None:
        """Note that this rank refuses what the user can mend."""
        self._refused.touch()

    @property
    def refused(self) -> bool:
        """Whether a rank of this machine has refused, and none has begun again since."""
        return self._refused.exists()

    @property
    def saved(self) -> bool:
        """Whether the ranks ended because they were asked to, and saved."""
        return self._saved.exists()
