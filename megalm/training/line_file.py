"""A file that only grows by whole lines: each line is one write, so that a killed run loses no finished line."""

import os
from pathlib import Path
from typing import Self

from megalm.errors import UserError


class LineFile:
    """Append whole lines to ``path``; its folder must be there.

    Args:
        path: created if it is missing, continued if it is not.

    Raises:
        UserError: the file cannot be opened or written (no permission, disk full).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, line: str) -> None:
        """Append ``line`` and a line end, and hand them to the operating system at once."""
        rest = memoryview(f"{line}\n".encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._refused(error) from error

    def cut(self, size: int) -> None:
        """Keep only the first ``size`` bytes."""
        try:
            self._file.truncate(size)
        except OSError as error:
            raise self._refused(error) from error

    def flush(self) -> None:
        """Return when every line written so far is on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Give the file back; closing twice is allowed."""
        self._file.close()

    def _refused(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self.path} ({error.strerror}); free some space or give run.dir a folder you may write to, "
            "and run the same command again."
        )
