"""Oracle: the Unicode standard's examples of composition, and documents crafted for one rule each."""

from pathlib import Path

import pytest

from megalm.data.cleaning import Reason, Rules, clean, read_stop_words
from megalm.errors import UserError

RULES = Rules(min_chars=5, stop_words=frozenset())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"plain text", "plain text"),
        ("e\u0301te\u0301 e\u0301te\u0301".encode(), "\u00e9t\u00e9 \u00e9t\u00e9"),
        ("\u1100\u1161 \u1100\u1161 \u1100\u1161".encode(), "\uac00 \uac00 \uac00"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        (b"caf\xe9 latin 1", Reason.ENCODING),
        ("half a pair: \ud800", Reason.ENCODING),
        (None, Reason.ENCODING),
        (b"", Reason.EMPTY),
        (b" \n\t \n", Reason.EMPTY),
        (b"\xef\xbb\xbf", Reason.EMPTY),
        (b"  four  ", Reason.TOO_SHORT),
        (b"  five5 ", "  five5 "),
        ("e\u0301te\u0301e\u0301", Reason.TOO_SHORT),
    ],
)
def test_one_document(content: bytes | str | None, expected: str | Reason) -> None:
    assert clean(content, RULES) == expected


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("this is FORBIDDEN here", True),
        ("forbidden", True),
        ("unforbidden words", False),
        ("a bad  phrase, spread out", True),
        ("a bad-phrase", True),
        ("bad and phrase", False),
        ("Stra\u00dfe", True),
        ("e\u0301t\u00e9", True),
    ],
)
def test_stop_words(tmp_path: Path, text: str, dropped: bool) -> None:
    path = tmp_path / "words.txt"
    path.write_text("Forbidden\n\n bad phrase \nSTRASSE\n\u00e9te\u0301\n", encoding="utf-8")
    assert (clean(text, Rules(0, read_stop_words(path))) == Reason.STOP_WORD) is dropped


def test_a_bad_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read this stop-word list"):
        read_stop_words(tmp_path / "gone.txt")
    (tmp_path / "words.txt").write_text("fine\n---\n")
    with pytest.raises(UserError, match=r"line 2: '---' holds no word"):
        read_stop_words(tmp_path / "words.txt")
