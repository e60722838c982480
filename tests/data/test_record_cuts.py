"""Oracle: records and samples laid out by hand, and first fit one box at a time."""

import random
from pathlib import Path

import numpy as np
import pytest

from megalm.data.corpora import Reading
from megalm.data.indexed import IndexedTokens
from megalm.data.indexed_writer import IndexedWriter
from megalm.data.record_cuts import PackedRecords, SingleRecords, first_fit
from megalm.errors import UserError

READING = Reading(seq_length=9, vocab_size=100, seed=1)
Parts = list[tuple[int, list[int]]]


def corpus(prefix: Path, records: list[Parts]) -> IndexedTokens:
    with IndexedWriter(prefix, np.dtype("<u2")) as writer:
        for record in records:
            writer.add_parts([(mode, np.array(tokens, np.int64)) for mode, tokens in record])
    return IndexedTokens(prefix)


RECORDS: list[Parts] = [
    [(0, [1, 2]), (1, [3, 4])],
    [(0, [5, 6, 7]), (1, [8, 9]), (0, [10]), (1, [11])],
    [(0, [12]), (1, [13, 14])],
    [(0, list(range(20, 33))), (1, [34])],
    [(0, [40]), (1, list(range(41, 60)))],
    [(0, [60, 61])],
    [(0, [62]), (1, [63, 64])],
]


def test_packing(tmp_path: Path) -> None:
    cut = PackedRecords("it", corpus(tmp_path / "a", RECORDS), READING, (1, 2))
    samples = [cut.read(epoch, index) for index in range(cut.num_samples) for epoch in (0, 1)]
    assert [sample.tokens_s.tolist() for sample in samples[::2]] == [
        [1, 2, 3, 4, 12, 13, 14, 62, 63, 64],
        [5, 6, 7, 8, 9, 10, 11, 0, 0, 0],
        [*range(40, 50)],
    ]
    assert [sample.documents_s.tolist() for sample in samples[::2]] == [
        [0, 0, 0, 0, 1, 1, 1, 2, 2, 2],
        [0, 0, 0, 0, 0, 0, 0, -1, -1, -1],
        [0] * 10,
    ]
    parts = [None if sample.parts_s is None else sample.parts_s.tolist() for sample in samples[::2]]
    assert parts == [[0, 0, 1, 1, 0, 1, 1, 0, 1, 1], [0, 0, 0, 1, 1, 0, 1, 0, 0, 0], [0] + [1] * 9]
    assert [s.tokens_s.tolist() for s in samples[::2]] == [s.tokens_s.tolist() for s in samples[1::2]]


def test_first_fit() -> None:
    generator = random.Random(3)
    lengths = [generator.randint(1, 10) for _ in range(200)]
    boxes: list[list[int]] = []
    for number, length in enumerate(lengths):
        fitting = [box for box in boxes if sum(lengths[each] for each in box) + length <= 10]
        if fitting:
            fitting[0].append(number)
        else:
            boxes.append([number])
    assert first_fit(np.array(lengths), 10) == boxes


def test_only_the_newest_samples_are_open() -> None:
    lengths = np.array([9, *[10] * 255, 1, *[10] * 256, 1])
    boxes = first_fit(lengths, 10)
    assert boxes[0] == [0, 256]
    assert boxes[-1] == [513]


def test_a_record_a_sample(tmp_path: Path) -> None:
    cut = SingleRecords()("it", corpus(tmp_path / "a", RECORDS[:1] + RECORDS[3:5]), READING, ())
    assert cut.num_samples == 3
    short, long_source, long_target = (cut.read(0, index) for index in range(3))
    assert short.tokens_s.tolist() == [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]
    assert short.documents_s.tolist() == [0] * 4 + [-1] * 6
    assert long_source.tokens_s.tolist() == [*range(20, 29), 34]
    assert long_target.tokens_s.tolist() == [*range(40, 50)]
    assert long_source.parts_s is not None
    assert long_source.parts_s.tolist() == [0] * 9 + [1]
    both = corpus(tmp_path / "b", [[(0, list(range(20))), (1, list(range(50, 70)))]])
    assert SingleRecords()("it", both, READING, ()).read(0, 0).tokens_s.tolist() == [0, 1, 2, 3, 4, *range(50, 55)]


def test_labels(tmp_path: Path) -> None:
    labelled = corpus(tmp_path / "a", [[(0, list(range(20))), (2, [2])], [(0, [7]), (2, [0])], [(0, [7]), (2, [3])]])
    cut = SingleRecords(num_labels=3)("it", labelled, READING, ())
    assert [cut.read(0, index).number for index in range(2)] == [2, 0]
    assert cut.read(0, 0).tokens_s.tolist() == [*range(10)]
    assert cut.read(0, 1).documents_s.tolist() == [0] + [-1] * 9
    with pytest.raises(UserError, match=r"record 2 has label 3, and model\.num_labels is 3"):
        cut.read(0, 2)


def test_corpora_that_do_not_fit(tmp_path: Path) -> None:
    plain = corpus(tmp_path / "plain", [[(0, [1, 2, 3])]])
    for cut, kinds in ((SingleRecords(), "pairs, instruct or chat"), (SingleRecords(3), "labelled")):
        with pytest.raises(UserError, match=f"it holds no such records; prepare it with --records {kinds}"):
            cut("it", plain, READING, ())
    with pytest.raises(UserError, match=r"no record of which train\.seq_length=9 leaves a token"):
        PackedRecords("it", plain, READING, ())
    large = corpus(tmp_path / "large", [[(0, [1]), (1, [100])]])
    with pytest.raises(UserError, match=r"token id 100, model\.vocab_size is 100"):
        PackedRecords("it", large, READING, ()).read(0, 0)
