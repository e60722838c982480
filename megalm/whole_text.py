"""Small text files that others look at while they are written."""

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all: whoever reads it has the old text or the new.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
