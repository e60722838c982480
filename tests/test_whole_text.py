"""Oracle: the text that was written, and the old one where it could not be."""

from pathlib import Path

import pytest

from megalm.whole_text import replace_text


def test_a_text_takes_the_place_of_another_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_text(path, "old")
    replace_text(path, "new, ä")
    assert path.read_text(encoding="utf-8") == "new, ä"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_text(path, "old")
    (tmp_path / "a.json.new").mkdir()
    with pytest.raises(OSError, match=r"a\.json\.new"):
        replace_text(path, "new")
    assert path.read_text() == "old"
