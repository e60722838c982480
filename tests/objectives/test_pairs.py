"""Oracle: records laid out by hand."""

import numpy as np
import pytest

from megalm.data.loader import Rows
from megalm.errors import UserError
from megalm.objectives.draws import Draws
from megalm.objectives.pairs import Pairs

END = 1


def test_what_is_given_and_what_is_asked() -> None:
    """A record and its padding; one that filled the sample and lost its end; one that gives nothing."""
    tokens = np.array([[5, 6, 7, 8, END, 0], [5, 6, END, 7, 8, 9], [6, 7, END, 0, 0, 0]])
    parts = np.array([[0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]], np.int8)
    documents = np.array([[0, 0, 0, 0, 0, -1], [0] * 6, [0, 0, 0, -1, -1, -1]], np.int32)
    rows = Rows(tokens, documents, np.arange(3), parts)
    sources, targets = Pairs(END)(rows, Draws(0, rows.samples_b))
    assert [source.tolist() for source in sources] == [[5, 6], [5, 6, END], []]
    assert [target.tolist() for target in targets] == [[7, 8], [7, 8, 9], [6, 7]]


def test_plain_text_is_refused() -> None:
    rows = Rows(np.zeros((1, 4), np.int64), np.zeros((1, 4), np.int32), np.arange(1))
    with pytest.raises(UserError, match="needs records, and a source gives plain text"):
        Pairs(END)(rows, Draws(0, rows.samples_b))
