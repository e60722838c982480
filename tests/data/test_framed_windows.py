"""Oracle: a corpus of running numbers, cut by hand."""

from pathlib import Path

import numpy as np
import pytest

from megalm.data.corpora import Reading
from megalm.data.framed_windows import FramedWindows
from megalm.data.indexed import IndexedTokens, token_dtype
from megalm.data.indexed_writer import IndexedWriter
from megalm.data.sentence_pairs import Frame
from megalm.errors import UserError

FRAME = Frame(first=1, end=2, padding=3, end_of_document=4)


def windows(prefix: Path, length: int = 8, key: tuple[int, ...] = ()) -> FramedWindows:
    with IndexedWriter(prefix, token_dtype(100)) as writer:
        for first, count in ((10, 9), (19, 14)):
            writer.add_document(np.arange(first, first + count))
    return FramedWindows("it", IndexedTokens(prefix), Reading(length, 100, 5), key, frame=FRAME)


def test_windows_stand_side_by_side_in_their_frame(tmp_path: Path) -> None:
    corpus = windows(tmp_path / "it")
    assert corpus.num_samples == 3
    for index in range(3):
        sample = corpus.read(0, index)
        assert sample.tokens_s.tolist() == [1, *range(10 + 6 * index, 16 + 6 * index), 2, 3]
        assert sample.parts_s is None
        assert sample.number is None
    assert corpus.read(0, 1).documents_s.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, -1]


def test_each_epoch_begins_elsewhere(tmp_path: Path) -> None:
    corpus = windows(tmp_path / "it", key=(5, 0))
    assert {corpus.read(epoch, 0).tokens_s[1] for epoch in range(60)} == {10, 11, 12, 13, 14, 15}
    assert {corpus.read(epoch, 2).tokens_s[6] for epoch in range(60)} == {27, 28, 29, 30, 31, 32}


def test_samples_without_room_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^train.seq_length=2 has no room for a text"):
        windows(tmp_path / "it", length=2)
