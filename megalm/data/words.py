"""Which tokens are pieces of one word, as far as the tokens' own spelling tells."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

CONTINUES = "##"
"""How WordPiece spells a piece that is not the first of its word."""


@dataclass(frozen=True)
class WordPieces:
    """The pieces of a vocabulary.

    Args:
        goes_on_v: bool by token id, whether the token may be a piece of the word before it.
        is_open_v: bool by token id, whether the word may go on behind the token.
    """

    goes_on_v: NDArray[np.bool_]
    is_open_v: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int) -> Self:
        """Read a tokenizer's spellings.

        WordPiece marks what goes on. Elsewhere a token goes on where letters or digits follow such without a space,
        which byte-level and sentence-piece tokenizers write as a letter of its own before the word.
        """
        goes_on, is_open = np.zeros(vocab_size, np.bool_), np.zeros(vocab_size, np.bool_)
        marks = type(tokenizer.model).__name__ == "WordPiece"
        added = tokenizer.get_added_tokens_decoder()
        for spelling, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
            if token_id >= vocab_size or token_id in added or not spelling:
                continue
            goes_on[token_id] = spelling.startswith(CONTINUES) if marks else _is_of_word(spelling[0])
            is_open[token_id] = marks or _is_of_word(spelling[-1])
        return cls(goes_on, is_open)

    def begins(self, tokens_bs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each token whether it begins a word, bool [b, s]."""
        begins = np.ones(tokens_bs.shape, np.bool_)
        begins[:, 1:] = ~(self.goes_on_v[tokens_bs[:, 1:]] & self.is_open_v[tokens_bs[:, :-1]])
        return begins


def _is_of_word(letter: str) -> bool:
    """Tell whether a letter of a spelling is of a word, and not a space (``\u0120`` and others, of bytes) or a sign."""
    return letter == "_" or (letter.isalnum() and not "\u0100" <= letter <= "\u0120")
