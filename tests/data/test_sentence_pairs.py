"""Oracle: a corpus whose token ids say where they stand, read by hand; halves and places by chi-square."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from megalm.data.corpora import Reading, Sample
from megalm.data.indexed import IndexedTokens, token_dtype
from megalm.data.indexed_writer import IndexedWriter
from megalm.data.sentence_pairs import DOES_NOT, FOLLOWS, Frame, SentencePairs
from megalm.errors import UserError
from tests.objectives.chi_square import chance

FRAME = Frame(first=1, end=2, padding=3, end_of_document=4)
FIRST, VOCAB_SIZE, S = 10, 2000, 20
LENGTHS = [60, 7, 1, 33, 90, 17, 2, 3, 44]
"""Tokens of the documents, the last of which ends them; two of the documents are too short."""
EVERY = 5
"""A sentence ends with each token whose number in its document is one less than a multiple of this."""


def write(prefix: Path, lengths: list[int], *, ended: bool = True) -> Path:
    """Write documents of numbered tokens: those of document d are FIRST + 100 d, and so on."""
    with IndexedWriter(prefix, token_dtype(VOCAB_SIZE)) as writer:
        for document, length in enumerate(lengths):
            tokens = FIRST + 100 * document + np.arange(length)
            if ended:
                tokens[-1] = FRAME.end_of_document
            writer.add_document(tokens)
    return prefix


def ends() -> np.ndarray:
    """Return which tokens end a sentence."""
    found = np.zeros(VOCAB_SIZE, np.bool_)
    found[FIRST:] = (np.arange(VOCAB_SIZE - FIRST) % 100) % EVERY == EVERY - 1
    found[FRAME.end_of_document] = True
    return found


def pairs(prefix: Path, seed: int = 5, length: int = S, *, sentences: bool = True) -> SentencePairs:
    ends_v = ends() if sentences else np.zeros(VOCAB_SIZE, np.bool_)
    reading = Reading(length, VOCAB_SIZE, seed)
    return SentencePairs("it", IndexedTokens(prefix), reading, (seed, 0), frame=FRAME, ends_v=ends_v)


def parts(sample: Sample) -> tuple[list[int], list[int]]:
    """Take a sample apart, and check what stands around its parts."""
    assert sample.parts_s is not None
    assert sample.tokens_s.shape == sample.documents_s.shape == sample.parts_s.shape == (S + 1,)
    assert sample.documents_s[-1] == -1  # nobody reads the last
    real = int((sample.documents_s == 0).sum())
    tokens, told = sample.tokens_s.tolist(), sample.parts_s.tolist()
    middle = tokens.index(FRAME.end)
    assert tokens[0] == FRAME.first
    assert tokens[real - 1 :] == [FRAME.end] + [FRAME.padding] * (S + 1 - real)
    assert sample.documents_s.tolist() == [0] * real + [-1] * (S + 1 - real)
    assert told == [0] * (middle + 1) + [1] * (real - middle - 1) + [0] * (S + 1 - real)
    return tokens[1:middle], tokens[middle + 1 : real - 1]


def document(tokens: list[int]) -> int:
    """Return the document of a run of tokens, which must be one without a gap."""
    assert tokens
    assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))
    return (tokens[0] - FIRST) // 100


@pytest.mark.parametrize("sentences", [True, False])
def test_parts_are_runs_and_the_second_follows_or_is_of_another_document(tmp_path: Path, sentences: bool) -> None:
    corpus = pairs(write(tmp_path / "it", LENGTHS), sentences=sentences)
    ends_v = ends()
    for epoch in range(4):
        for index in range(corpus.num_samples):
            sample = corpus.read(epoch, index)
            first, second = parts(sample)
            assert len(first) + len(second) <= S - 3
            if sample.number == FOLLOWS:
                assert second[0] == first[-1] + 1
                assert document(first) == document(second)
            else:
                assert sample.number == DOES_NOT
                assert document(first) != document(second)
            if sentences and document(first) == 4:  # where a sentence ends in every window
                assert ends_v[first[-1]]
                assert (first[0] - FIRST) % EVERY == 0
            if sentences:
                assert (second[0] - FIRST) % EVERY == 0 or (sample.number == FOLLOWS and not ends_v[first].any())
                assert ends_v[second[-1]] or not ends_v[second].any()


def test_half_of_the_pairs_follow_and_any_other_window_stands_for_the_rest(tmp_path: Path) -> None:
    corpus = pairs(write(tmp_path / "it", LENGTHS))
    samples = [(index, corpus.read(epoch, index)) for epoch in range(400) for index in range(corpus.num_samples)]
    assert chance([sum(sample.number == kind for _, sample in samples) for kind in (FOLLOWS, DOES_NOT)]) > 1e-3

    of_one = [parts(sample) for index, sample in samples if index == 0 and sample.number == DOES_NOT]
    windows = [4, 1, 2, 6, 1, 1, 3]  # of the documents that are read, 60, 7, 33, 90, 17, 3 and 44 tokens long
    assert corpus.num_samples == sum(windows)
    counts = np.bincount([document(second) for _, second in of_one], minlength=9)
    assert counts[0] == 0
    assert chance(counts[[1, 3, 4, 5, 7, 8]], windows[1:]) > 1e-3


def test_an_epoch_reads_every_document_and_parts_it_elsewhere(tmp_path: Path) -> None:
    corpus = pairs(write(tmp_path / "it", LENGTHS))

    @cache
    def follows(epoch: int) -> dict[int, tuple[list[int], list[int]]]:
        read = {index: corpus.read(epoch, index) for index in range(corpus.num_samples)}
        return {index: parts(sample) for index, sample in read.items() if sample.number == FOLLOWS}

    seen = {token for epoch in range(12) for first, second in follows(epoch).values() for token in first + second}
    for number, length in enumerate(LENGTHS):
        if length >= 3:
            tokens = set(range(FIRST + 100 * number, FIRST + 100 * number + length - 1))
            assert len(tokens - seen) <= length // 4  # what does not fit behind the beginning of a sentence
    cuts = {len(follows(epoch)[9][0]) for epoch in range(12) if 9 in follows(epoch)}
    assert len(cuts) > 1


def test_a_sample_is_a_function_of_the_key_the_epoch_and_the_index(tmp_path: Path) -> None:
    prefix = write(tmp_path / "it", LENGTHS)

    def tokens(seed: int, epoch: int) -> list[list[int]]:
        corpus = pairs(prefix, seed)
        return [corpus.read(epoch, index).tokens_s.tolist() for index in range(corpus.num_samples)]

    assert tokens(5, 0) == tokens(5, 0)
    assert tokens(5, 0) != tokens(5, 1)
    assert tokens(5, 0) != tokens(6, 0)


def test_documents_that_nothing_ends_are_read_to_their_last_token(tmp_path: Path) -> None:
    corpus = pairs(write(tmp_path / "it", [10, 12], ended=False), sentences=False)
    assert corpus.num_samples == 2
    seen = {token for epoch in range(20) for first, _ in [parts(corpus.read(epoch, 1))] for token in first}
    both = [parts(corpus.read(epoch, 1)) for epoch in range(20) if corpus.read(epoch, 1).number == FOLLOWS]
    assert all(first + second == list(range(110, 122)) for first, second in both)
    assert seen <= set(range(110, 122))


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^it has one document, .*; prepare more files, or set objective.nsp=false\.$"):
        pairs(write(tmp_path / "one", [30, 2]))
    with pytest.raises(UserError, match=r"^train.seq_length=4 has no room for a pair"):
        pairs(write(tmp_path / "two", [30, 20]), length=4)
    assert pairs(write(tmp_path / "none", [2, 1])).num_samples == 0
    with pytest.raises(UserError, match=r"holds token id 2013, model\.vocab_size is 2000"):
        pairs(write(tmp_path / "many", [5] * 21), length=8)
