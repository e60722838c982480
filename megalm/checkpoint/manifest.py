"""What a checkpoint's folder holds, and whether it still does.

``manifest.json`` names every file with its fingerprint; the mark ``complete``, one line that is written last, holds the
manifest's own fingerprint. A folder without a mark is what a save left that was cut off.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

FORMAT = 1
MANIFEST = "manifest.json"
MARK = "complete"
FACTS = "facts.json"
TENSOR_INDEX = ".metadata"


class Damaged(Exception):
    """A checkpoint that must not be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Fingerprint:
    """The size of a file in bytes and its SHA-256 in hexadecimal, as ``sha256sum`` prints it.

    SHA-256 is the fastest of the standard library's cryptographic hashes on CPUs with instructions for it.
    """

    size: int
    sha256: str


def fingerprint(path: Path) -> Fingerprint:
    """Read a file and return what it is now."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Fingerprint(file.tell(), digest)


@dataclass(frozen=True)
class Manifest:
    """The step that a checkpoint is of, and all its files but the manifest and the mark."""

    step: int
    files: Mapping[str, Fingerprint]

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        files = {name: asdict(self.files[name]) for name in sorted(self.files)}
        return json.dumps({"format": FORMAT, "step": self.step, "files": files}, indent=1) + "\n"


def mark_of(manifest: Fingerprint) -> str:
    """Return the text of the mark of a checkpoint whose manifest has this fingerprint."""
    return f"complete checkpoint, sha256 of {MANIFEST}: {manifest.sha256}\n"


def is_marked(folder: Path) -> bool:
    """Return whether a save of this folder came to its end."""
    return (folder / MARK).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a complete checkpoint.

    Raises:
        Damaged: the checkpoint is not complete, its manifest was altered, or a later megalm wrote it.
    """
    if not is_marked(folder):
        raise Damaged(f"{MARK} is missing: it was not saved to its end, or the file was removed")
    try:
        if (folder / MARK).read_bytes() != mark_of(fingerprint(folder / MANIFEST)).encode():
            raise Damaged(f"{MANIFEST} and {MARK} do not agree: one of them was altered")
        content = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise Damaged(f"{MANIFEST} is missing") from error
    except OSError as error:
        raise Damaged(f"{MANIFEST} or {MARK} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise Damaged(f"{MANIFEST} is not JSON") from error
    try:
        if content["format"] != FORMAT:
            raise Damaged(f"it has format {content['format']} and this megalm reads {FORMAT}; use a newer megalm")
        files = {name: Fingerprint(int(file["size"]), str(file["sha256"])) for name, file in content["files"].items()}
        step = int(content["step"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Damaged(f"{MANIFEST} does not read as megalm writes it ({error})") from error
    for name in files:
        if Path(name).name != name:
            raise Damaged(f"{MANIFEST} names {name!r}, which is outside of the checkpoint")
    for name in (FACTS, TENSOR_INDEX):
        if name not in files:
            raise Damaged(f"{MANIFEST} does not name {name}")
    return Manifest(step, files)


def check_file(path: Path, expected: Fingerprint) -> None:
    """Read a file and compare it with what was saved.

    Raises:
        Damaged: it is missing, has another size, was altered, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size != expected.size:
            raise Damaged(f"{path.name} has {size} bytes and was saved with {expected.size}")
        if fingerprint(path) != expected:
            raise Damaged(f"{path.name} was altered: its SHA-256 is not the saved one")
    except FileNotFoundError as error:
        raise Damaged(f"{path.name} is missing") from error
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from error
