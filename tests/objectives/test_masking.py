"""Oracle: shares counted; kinds and places by chi-square at a fixed seed; words by hand with given numbers."""

import numpy as np
import pytest
from numpy.typing import NDArray

from megalm.objectives.draws import Draws
from megalm.objectives.masking import Masking, chosen
from tests.objectives.chi_square import chance

VOCAB_SIZE, MASK, S = 100, 3, 40
SPECIAL = 10
"""The ids below are special tokens."""
MASKING = Masking(0.15, MASK, np.arange(SPECIAL, VOCAB_SIZE), VOCAB_SIZE)


def texts(count: int) -> NDArray[np.int64]:
    """Return texts whose first and last tokens are special."""
    tokens = np.random.Generator(np.random.PCG64(5)).integers(SPECIAL, VOCAB_SIZE, (count, S))
    tokens[:, 0], tokens[:, -1] = 1, 2
    return tokens


def test_the_exact_share_is_hidden_anywhere_and_80_10_10() -> None:
    tokens = texts(4000)
    may = np.ones(tokens.shape, np.bool_)
    may[:, 30:] = False
    read, hidden = MASKING(tokens, may, None, Draws(7, np.arange(4000)))

    assert (hidden.sum(1) == round(0.15 * 29)).all()
    assert not hidden[:, 0].any()
    assert not hidden[:, 30:].any()
    assert (read[~hidden] == tokens[~hidden]).all()
    assert chance(hidden[:, 1:30].sum(0)) > 1e-3
    masks, kept = (read == MASK) & hidden, (read == tokens) & hidden
    others = hidden & ~masks & ~kept
    same = 1 / (VOCAB_SIZE - SPECIAL)  # of the tokens that are replaced, those that are replaced by themselves
    shares = [0.8, 0.1 * (1 - same), 0.1 + 0.1 * same]
    assert chance([masks.sum(), others.sum(), kept.sum()], shares) > 1e-3
    assert chance(np.bincount(read[others], minlength=VOCAB_SIZE)[SPECIAL:]) > 1e-3
    assert read[others].min() >= SPECIAL


def test_it_is_a_function_of_the_seed_and_the_sample() -> None:
    tokens = texts(6)
    may = np.ones(tokens.shape, np.bool_)
    read, hidden = MASKING(tokens, may, None, Draws(7, np.arange(6)))
    again, hidden_again = MASKING(tokens[4:], may[4:], None, Draws(7, np.arange(4, 6)))
    assert np.array_equal(read[4:], again)
    assert np.array_equal(hidden[4:], hidden_again)
    for other in (Draws(8, np.arange(6)), Draws(7, np.arange(6) + 6)):
        assert not np.array_equal(hidden, MASKING(tokens, may, None, other)[1])


def test_a_text_without_ordinary_tokens_stays() -> None:
    tokens = np.ones((1, S), np.int64)
    read, hidden = MASKING(tokens, np.ones((1, S), np.bool_), None, Draws(7, np.arange(1)))
    assert np.array_equal(read, tokens)
    assert not hidden.any()


@pytest.mark.parametrize(
    ("begins", "u", "density", "expected"),
    [
        ([1, 1, 1, 1], [0.4, 0.1, 0.3, 0.2], 0.5, [1, 3]),
        ([1, 1, 1, 1], [0.4, 0.1, 0.3, 0.2], 0.01, [1]),  # one at least
        ([1, 0, 1, 0, 1, 1], [0.4, 0.0, 0.1, 0.9, 0.3, 0.2], 0.5, [2, 3, 5]),  # a word has its first token's number
        ([1, 0, 1, 0, 1, 1], [0.2, 0.9, 0.1, 0.9, 0.3, 0.4], 0.5, [2, 3]),  # the next word would be too much
        ([1, 0, 0, 1], [0.1, 0.9, 0.9, 0.2], 0.25, [0, 1, 2]),  # the first word is hidden though it is too long
        ([], [], 0.5, []),
    ],
)
def test_words_by_hand(begins: list[int], u: list[float], density: float, expected: list[int]) -> None:
    assert chosen(np.array(begins, np.bool_), np.array(u), density).tolist() == expected


def test_words_are_hidden_whole() -> None:
    tokens = texts(500)
    begins = np.zeros(tokens.shape, np.bool_)
    begins[:, ::3] = True  # 1 and 2 stand behind the special token 0, 3 4 5 and so on are words
    _, hidden = MASKING(tokens, np.ones(tokens.shape, np.bool_), begins, Draws(7, np.arange(500)))
    words = np.split(hidden[:, 3:39], 12, axis=1)
    assert all((word.all(1) | ~word.any(1)).all() for word in words)
    assert (hidden[:, 1] == hidden[:, 2]).all()
    assert (hidden.sum(1) <= round(0.15 * 38)).all()
    assert hidden.sum(1).min() >= 3
