"""Files that are on the disk when the call returns, and whose fingerprint is taken as they are written."""

import hashlib
import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch.distributed.checkpoint.filesystem import FileSystem

from megalm.checkpoint.manifest import Fingerprint


class FingerprintedStream(io.RawIOBase):
    """A file open for appending that takes the fingerprint of what passes."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: Any) -> int:
        """Append bytes, or anything that lends its bytes."""
        written = self._file.write(data)
        self._hash.update(data)
        self._size += written
        return written

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def flush(self) -> None:
        """Do nothing: ``DurableFiles`` flushes and syncs once, at the end."""

    def fingerprint(self) -> Fingerprint:
        """Return what was written so far."""
        return Fingerprint(self._size, self._hash.hexdigest())


class DurableFiles(FileSystem):
    """torch's file system for checkpoints, whose files are synced when they close, with their fingerprints.

    torch's own writer syncs before it flushes its buffer, so its ``sync_files`` is left off where this is used.
    """

    def __init__(self) -> None:
        self.written: dict[str, Fingerprint] = {}
        """The files written through this object, by name."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        """Open ``path`` for writing (``wb``)."""
        if mode != "wb":
            raise ValueError(f"these files are only written, not opened as {mode!r}")
        with Path(path).open("wb") as file:
            stream = FingerprintedStream(file)
            yield stream
            file.flush()
            os.fsync(file.fileno())
        self.written[Path(path).name] = stream.fingerprint()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Rename a file that was written."""
        super().rename(path, new_path)
        self.written[Path(new_path).name] = self.written.pop(Path(path).name)

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file."""
        with self.create_stream(path, "wb") as stream:
            cast(FingerprintedStream, stream).write(text.encode())
