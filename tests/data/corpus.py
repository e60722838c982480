"""Documents crafted so that what becomes of each is known."""

import json
import random
from pathlib import Path

WORDS = [
    "".join(random.Random(number).choices("abcdefghijklmnop", k=2 + number % 9)) for number in range(400)
]  # fixed words: the tests do not depend on a file that a machine may lack


def prose(seed: int, length: int = 120) -> str:
    """Return a text of its own, with line breaks."""
    generator = random.Random(f"prose {seed}")
    words = (generator.choice(WORDS) + ("\n" if generator.random() < 0.1 else " ") for _ in range(length))
    return "".join(words) + "."


def write_lines(path: Path, texts: list[str]) -> Path:
    """Write a JSON-lines file."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def files_of(directory: Path) -> dict[str, bytes]:
    """Return all files of a prepared directory by name, with their bytes, the hidden ones aside."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}
