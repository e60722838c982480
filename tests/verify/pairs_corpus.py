"""A small corpus on disk with the tokenizer that encoders need: documents of random words in sentences."""

from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, models

from megalm.data.indexed import token_dtype
from megalm.data.indexed_writer import IndexedWriter

SPECIAL = ("<|endoftext|>", "[PAD]", "[CLS]", "[SEP]", "[MASK]")


def write_pairs_corpus(folder: Path, vocab_size: int) -> tuple[str, str]:
    """Write a corpus and a tokenizer, whose special tokens are its last; return the corpus's prefix and its path."""
    words = vocab_size - len(SPECIAL)
    spellings = {f"word{number}" + ("." if number % 5 == 0 else ""): number for number in range(words)}
    tokenizer = Tokenizer(models.WordLevel(spellings, "word1"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    generator = np.random.Generator(np.random.PCG64(3))
    with IndexedWriter(folder / "corpus", token_dtype(vocab_size)) as writer:
        for length in (70, 30, 9, 55, 120, 41):
            writer.add_document(np.append(generator.integers(0, words, length), words))
    return str(folder / "corpus"), str(folder / "tokenizer.json")
