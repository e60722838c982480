"""Oracle: what each token of hand-made samples must become."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from megalm.batch import IGNORED
from megalm.data.loader import Rows
from megalm.data.words import WordPieces
from megalm.errors import UserError
from megalm.objectives.masking import Masking
from megalm.objectives.mlm_nsp import MlmNsp

CLS, SEP, MASK, FIRST = 0, 1, 3, 4
PAD = 40
"""No special token here, so that it is padding by its place alone."""
VOCAB_SIZE = 50
MASKING = Masking(0.3, MASK, np.arange(FIRST, VOCAB_SIZE), VOCAB_SIZE)
PAIRS = MlmNsp(MASKING, None, 0.5, seed=3)
TEXTS = MlmNsp(MASKING, None, None, seed=3)


def pairs(count: int) -> Rows:
    """Return samples of two parts, of different lengths, and of either class."""
    tokens = np.full((count, 13), PAD, np.int64)
    documents, parts = np.full((count, 13), -1, np.int32), np.zeros((count, 13), np.int8)
    for sample in range(count):
        second = 3 + sample % 3
        tokens[sample, : 6 + second] = [CLS, 10, 11, 12, SEP, *range(20, 20 + second), SEP]
        documents[sample, : 6 + second] = 0
        parts[sample, 5 : 6 + second] = 1
    return Rows(tokens, documents, np.arange(100, 100 + count), parts, np.arange(count) % 2)


def test_pairs() -> None:
    rows = pairs(300)
    batch = PAIRS(rows, reset_attention=False)
    tokens = torch.from_numpy(rows.tokens_bs[:, :12])
    asked = batch.labels_bs != IGNORED

    assert torch.equal(batch.labels_bs[asked], tokens[asked])
    assert (tokens[asked] >= FIRST).all()  # no label on padding or special tokens
    assert torch.equal(batch.tokens_bs[~asked], tokens[~asked])
    assert (batch.tokens_bs[asked] == MASK).float().mean() == pytest.approx(0.8, abs=0.05)
    assert asked.sum(1).tolist() == [int(0.3 * (6 + sample % 3) + 0.5) for sample in range(300)]
    assert batch.documents_bs is not None
    assert batch.segments_bs is not None
    assert batch.classes_b is not None
    assert batch.documents_bs[1].tolist() == [0] * 10 + [-1] * 2
    assert batch.segments_bs[1].tolist() == [0] * 5 + [1] * 5 + [0] * 2
    assert batch.classes_b.tolist() == [0, 1] * 150
    assert batch.positions_bs[2].tolist() == list(range(12))
    assert batch.rows_bs[2].tolist() == list(range(102 * 12, 103 * 12))
    assert (batch.loss_scale, batch.class_loss_scale) == (1.0, 0.5)


def test_a_sample_hides_other_tokens_when_it_comes_again_and_the_same_in_any_batch() -> None:
    rows = pairs(6)
    labels = PAIRS(rows, reset_attention=False).labels_bs
    last = Rows(*(None if field is None else field[4:] for field in vars(rows).values()))  # type: ignore[arg-type]
    assert torch.equal(PAIRS(last, reset_attention=False).labels_bs, labels[4:])
    later = replace(rows, samples_b=rows.samples_b + 6)
    assert not torch.equal(PAIRS(later, reset_attention=False).labels_bs, labels)
    assert not torch.equal(replace(PAIRS, seed=4)(rows, reset_attention=False).labels_bs, labels)


def test_words_are_hidden_whole() -> None:
    goes_on = np.zeros(VOCAB_SIZE, np.bool_)
    goes_on[[11, 12]] = True  # the first part is one word, those of the second stand alone
    objective = MlmNsp(MASKING, WordPieces(goes_on, np.ones(VOCAB_SIZE, np.bool_)), 0.5, seed=3)
    asked = objective(pairs(300), reset_attention=False).labels_bs != IGNORED
    assert (asked[:, 1:4].all(1) | ~asked[:, 1:4].any(1)).all()
    assert asked[:, 1].any()
    assert not asked[:, 1].all()


@pytest.mark.parametrize("reset", [False, True])
def test_running_texts(reset: bool) -> None:
    tokens = np.arange(10, 26).reshape(2, 8)
    documents = np.array([[0, 0, 0, 1, 1, 1, 1, -1], [0, 0, 0, 0, 0, 0, 0, -1]], np.int32)
    batch = TEXTS(Rows(tokens, documents, np.arange(2)), reset_attention=reset)
    assert batch.tokens_bs.shape == (2, 7)
    assert batch.classes_b is None
    assert batch.segments_bs is None
    if reset:
        assert batch.documents_bs is not None
        assert batch.documents_bs.tolist() == documents[:, :7].tolist()
        assert batch.positions_bs[0].tolist() == [0, 1, 2, 0, 1, 2, 3]
    else:
        assert batch.documents_bs is None
        assert batch.positions_bs[0].tolist() == list(range(7))


def test_windows_of_a_source_of_ones_own_are_no_pairs() -> None:
    rows = Rows(np.full((1, 5), 10), np.zeros((1, 5), np.int32), np.arange(1))
    with pytest.raises(UserError, match=r"a source of your own gives windows of one; set objective.nsp=false"):
        PAIRS(rows, reset_attention=False)
