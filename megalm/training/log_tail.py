"""The end of a file that grows: its last lines, and what is added after them."""

from pathlib import Path

BLOCK = 2**16


class Tail:
    """Reads a text file from its end on.

    Args:
        path: it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self._path = path
        self._seen = 0

    def last(self, count: int) -> str:
        """Return the last ``count`` lines."""
        try:
            with self._path.open("rb") as file:
                at = self._seen = file.seek(0, 2)
                data = b""
                while at and data.count(b"\n") <= count:
                    start = max(0, at - BLOCK)
                    file.seek(start)
                    data = file.read(at - start) + data
                    at = start
        except FileNotFoundError:
            return ""
        lines = data.splitlines(keepends=True)
        return b"".join(lines[len(lines) - min(count, len(lines)) :]).decode(errors="replace")

    def more(self) -> str:
        """Return what was added since; a file that became shorter begins anew."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._seen:
                    self._seen = 0
                file.seek(self._seen)
                data = file.read()
        except FileNotFoundError:
            return ""
        self._seen += len(data)
        return data.decode(errors="replace")

    def turn_to(self, path: Path) -> None:
        """Go on with another file from its beginning, if it is another."""
        if path != self._path:
            self._path, self._seen = path, 0
