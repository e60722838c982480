"""Oracle: samples laid out by hand, as a decoder's and BERT's classifier read them."""

import numpy as np
import pytest

from megalm.batch import IGNORED
from megalm.data.loader import Rows
from megalm.errors import UserError
from megalm.objectives.classify import Classify

TOKENS = np.array([[5, 6, 0, 0, 0], [5, 6, 7, 0, 0], [1, 2, 3, 4, 5]])
DOCUMENTS = np.array([[0, 0, -1, -1, -1], [0, 0, 0, -1, -1], [0] * 5], np.int32)
ROWS = Rows(TOKENS, DOCUMENTS, np.array([7, 8, 9]), numbers_b=np.array([2, 0, 1]))


def test_a_text_as_it_is() -> None:
    batch = Classify()(ROWS, reset_attention=False)
    assert batch.tokens_bs.tolist() == [[5, 6, 0, 0], [5, 6, 7, 0], [1, 2, 3, 4]]
    assert batch.documents_bs is not None
    assert batch.documents_bs.tolist() == [[0, 0, -1, -1], [0, 0, 0, -1], [0] * 4]
    assert batch.classes_b is not None
    assert batch.classes_b.tolist() == [2, 0, 1]
    assert batch.labels_bs.unique().tolist() == [IGNORED]
    assert (batch.loss_scale, batch.class_loss_scale) == (0.0, 1.0)
    assert batch.positions_bs.tolist() == [[0, 1, 2, 3]] * 3
    assert batch.rows_bs.tolist() == [[28, 29, 30, 31], [32, 33, 34, 35], [36, 37, 38, 39]]


def test_a_text_between_two_special_tokens() -> None:
    batch = Classify((90, 91))(ROWS, reset_attention=False)
    assert batch.tokens_bs.tolist() == [[90, 5, 91, 0], [90, 5, 6, 91], [90, 1, 2, 91]]
    assert batch.documents_bs is not None
    assert batch.documents_bs.tolist() == [[0, 0, 0, -1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_records_without_labels_are_refused() -> None:
    with pytest.raises(UserError, match=r"objective\.name=classify needs labelled records"):
        Classify()(Rows(TOKENS, DOCUMENTS, np.array([7, 8, 9])), reset_attention=False)
