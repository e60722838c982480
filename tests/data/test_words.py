"""Oracle: words by hand, in the spellings of three kinds of tokenizers."""

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models

from megalm.data.words import WordPieces

BYTE_LEVEL = ["def", "\u0120foo", "Bar", "_", "1", "(", "):", "\u010a", "\u0120\u0120", "x", "<s>"]
SENTENCE_PIECE = ["\u2581def", "\u2581foo", "bar", "(", "\u2581(", "x"]
WORD_PIECE = ["play", "##ing", "(", "##x", "it"]


def begins(model: models.Model, spellings: list[str], added: tuple[str, ...] = ()) -> list[bool]:
    """Return whether each of the spellings, one after the other, begins a word."""
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
    ids = np.array([[tokenizer.token_to_id(spelling) for spelling in spellings]])
    found: list[bool] = WordPieces.of(tokenizer, tokenizer.get_vocab_size()).begins(ids)[0].tolist()
    return found


@pytest.mark.parametrize(
    ("known", "text", "goes_on"),
    [
        (BYTE_LEVEL, ["def", "\u0120foo", "Bar", "_", "1", "(", "x", "):", "\u010a", "\u0120\u0120", "x"], [2, 3, 4]),
        (SENTENCE_PIECE, ["\u2581def", "\u2581foo", "bar", "(", "x", "bar", "\u2581("], [2, 5]),
    ],
)
def test_pieces_without_a_mark(known: list[str], text: list[str], goes_on: list[int]) -> None:
    model = models.BPE({spelling: number for number, spelling in enumerate(known)}, [])
    assert begins(model, text) == [place not in goes_on for place in range(len(text))]


def test_pieces_with_a_mark() -> None:
    model = models.WordPiece({spelling: number for number, spelling in enumerate(WORD_PIECE)}, unk_token="it")
    assert begins(model, ["play", "##ing", "it", "(", "##x", "play"]) == [True, False, True, True, False, True]


def test_special_tokens_are_of_no_word() -> None:
    model = models.BPE({"a": 0, "b": 1}, [])
    assert begins(model, ["a", "b", "sep", "b", "b"], ("sep",)) == [True, False, True, True, False]
