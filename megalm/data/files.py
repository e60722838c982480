"""Files that appear whole or not at all, and what the operating system refuses, told in one sentence."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from megalm.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write ``path`` so that it exists only when it is complete, whatever kills the writer.

    The bytes go to a neighbour named after this process, reach the disk, and the name is moved in one step.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    with whole_file(path) as stream:
        stream.write(text.encode())


def write_refusal(error: OSError, directory: Path) -> UserError:
    """Return the sentence for a write below ``directory`` that the operating system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{directory}: the disk is full; free some space and run the same command to go on.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{directory}: no permission to write here; choose another --output or change its rights.")
    return UserError(f"{directory}: cannot write here ({error.strerror or error}); choose another --output.")
