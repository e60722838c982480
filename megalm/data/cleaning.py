"""Which documents are fit to learn from, judged one at a time; duplicates are judged in ``duplicates.py``."""

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from megalm.errors import UserError

WORD = re.compile(r"\w+")


class Reason(StrEnum):
    """Why a document was dropped; the first that applies counts, in this order."""

    ENCODING = "not_utf8"
    EMPTY = "empty"
    TOO_SHORT = "too_short"
    STOP_WORD = "stop_word"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True)
class Rules:
    """What a document must be to be kept.

    Attributes:
        min_chars: characters that must remain when the white space around the text is taken off.
        stop_words: words or phrases, as ``read_stop_words`` returns them, none of which may occur as whole words.
    """

    min_chars: int
    stop_words: frozenset[str]


def read_stop_words(path: Path) -> frozenset[str]:
    """Return the words and phrases of a list, one a line, brought to the form in which texts are searched.

    Raises:
        UserError: the list cannot be read, or a line holds no letter or digit.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this stop-word list ({error}).") from error
    entries = set()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            if not WORD.search(line):
                raise UserError(f"{path}, line {number}: {line.strip()!r} holds no word; remove it.")
            entries.add(_words_only(unicodedata.normalize("NFC", line)))
    return frozenset(entries)


def clean(content: bytes | str | None, rules: Rules) -> str | Reason:
    """Return the text of a document in Unicode form NFC without a byte-order mark, or why it is dropped."""
    if content is None:
        return Reason.ENCODING
    try:
        text = content.decode() if isinstance(content, bytes) else content
        text.encode()  # a JSON string may hold half of a surrogate pair, which no UTF-8 text can
    except UnicodeError:
        return Reason.ENCODING
    text = unicodedata.normalize("NFC", text.removeprefix("\ufeff"))
    length = len(text.strip())
    if length == 0:
        return Reason.EMPTY
    if length < rules.min_chars:
        return Reason.TOO_SHORT
    if rules.stop_words and _has_stop_word(text, rules.stop_words):
        return Reason.STOP_WORD
    return text


def _words_only(text: str) -> str:
    return f" {' '.join(WORD.findall(text.casefold()))} "


def _has_stop_word(text: str, stop_words: frozenset[str]) -> bool:
    words = _words_only(text)
    single = {f" {word} " for word in words.split()}
    phrases = (entry for entry in stop_words if entry.count(" ") > 2)
    return not stop_words.isdisjoint(single) or any(phrase in words for phrase in phrases)
