"""One rank as its launcher sees it: a process in a group of its own, its output, its verdict."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from megalm.errors import UserError
from megalm.launcher.conclusion import RankEnd
from megalm.launcher.look import LAST_LINES
from megalm.launcher.verdict import VERDICT_FD, Verdict, read


class RankProcess:
    """A started rank.

    Rank 0 writes to the launcher's own stdout and stderr; what the others write goes to the launcher's stderr, each
    line after the rank's number. A process group of its own keeps Ctrl-C from reaching a rank twice.

    Args:
        number: the rank.
        command: what to start.
        env: its whole environment.
        fds: file descriptors to hand down.
        stdin: that of its standard input, if it reads any.
    """

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        env: Mapping[str, str],
        fds: Sequence[int],
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.number = number
        self._verdict: Verdict | None = None
        self._closed = False
        self._verdict_fd, write_end = os.pipe()
        os.set_blocking(self._verdict_fd, False)
        try:
            self.process = subprocess.Popen(
                command,
                env={**env, VERDICT_FD: str(write_end)},
                pass_fds=(*fds, write_end),
                process_group=0,
                stdin=stdin,
                stdout=subprocess.PIPE if number else None,
                stderr=subprocess.STDOUT if number else None,
            )
        except OSError as error:
            os.close(self._verdict_fd)
            raise UserError(f"cannot start rank {number} ({error.strerror}); try fewer ranks.") from error
        finally:
            os.close(write_end)
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        if self.process.stdout is not None:
            self._reader = threading.Thread(
                target=_pass_on, args=(self.process.stdout, f"[rank {number}] ", self._lines), daemon=True
            )
            self._reader.start()

    @property
    def verdict(self) -> Verdict | None:
        """What the rank has told about its end, or None."""
        if self._verdict is None and not self._closed:
            self._verdict = read(self._verdict_fd)
        return self._verdict

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def died(self) -> bool:
        """Whether it has ended otherwise than in order."""
        code = self.process.poll()
        return code is not None and RankEnd(self.number, self.process.pid, code, self.verdict, None).died

    def send(self, signal_number: int) -> None:
        """Hand a signal to the rank and to all that it started, if it still runs."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal_number)

    def kill(self) -> None:
        """End it at once and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def end(self, ended_s: float | None) -> RankEnd:
        """Wait until its last output is on the screen, and return how it ended; it has.

        Args:
            ended_s: when, if that was before the launcher ended it.
        """
        if self._reader is not None:
            self._reader.join(timeout=1)
            if self.process.stdout is not None and not self._reader.is_alive():
                self.process.stdout.close()
        self._verdict = self.verdict
        os.close(self._verdict_fd)
        self._closed = True
        return RankEnd(
            self.number, self.process.pid, self.process.returncode, self._verdict, ended_s, lines=[*self._lines]
        )


def _pass_on(stream: BinaryIO, prefix: str, last: deque[str]) -> None:
    for line in stream:
        text = line.decode(errors="replace").rstrip("\n")
        last.append(text)
        print(f"{prefix}{text}\n", end="", file=sys.stderr, flush=True)
