"""A tokenizer of given words, with special tokens behind them."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models


def write_tokenizer(folder: Path, words: Sequence[str], special: Sequence[str]) -> Path:
    """Write ``tokenizer.json``: each word is a token with its place as its id, then come the special tokens."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, words[0]))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path
