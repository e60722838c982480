"""Words of a shell: any text as one word that bash reads back letter by letter, and that does nothing else."""

import os
import shlex
from collections.abc import Iterable


def bash_word(text: str) -> str:
    """Return ``text`` as one word of a bash script, on one line.

    Line ends and other letters that cannot be printed stand as escapes, so that no part of a word looks like a line of
    the script.
    """
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def bash_array(words: Iterable[str]) -> str:
    """Return the value of an array variable."""
    return "(" + " ".join(map(bash_word, words)) + ")"


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    return letter if letter.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
