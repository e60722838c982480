"""The tokenizer: byte-level BPE learned from the corpus, or any given ``tokenizer.json``; and text to token ids.

Every document ends with one end-of-document token. A text that happens to spell a special token out is encoded as
ordinary text, so that no document can forge a boundary.

Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units", 2016; the byte-level
alphabet is that of Radford et al., "Language models are unsupervised multitask learners", 2019.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from megalm.errors import UserError

END_OF_DOCUMENT = "<|endoftext|>"
KNOWN_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
SMALLEST_VOCABULARY = 257
PIECE = 1 << 20
SAFE_CUT = re.compile(r"(?<=\S\n)(?=\S)|(?<=\S)(?= \S)")


def train_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """Learn byte-level BPE; the same texts give the same tokenizer, whatever the machine and the number of threads.

    Args:
        texts: what to learn from.
        vocab_size: the size with the 256 bytes, the end-of-document token (id 0) and the special ones; a small text may
            give fewer.
        special_tokens: those beside the end of a document; their ids follow it, in order.

    Raises:
        UserError: the vocabulary cannot hold the bytes.
    """
    check_size(vocab_size, special_tokens)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_DOCUMENT, *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in pieces(text)), trainer)
    return tokenizer


def check_size(vocab_size: int, special_tokens: Sequence[str]) -> None:
    """Refuse a vocabulary that cannot hold what it must.

    Raises:
        UserError: it is too small.
    """
    if vocab_size < (smallest := SMALLEST_VOCABULARY + len(special_tokens)):
        others = f" and {len(special_tokens)} special tokens" if special_tokens else ""
        raise UserError(
            f"--vocab-size {vocab_size} is too small: byte-level BPE needs the 256 bytes, an end-of-document token"
            f"{others}, {smallest} in all."
        )


def open_tokenizer(path: Path) -> Tokenizer:
    """Load a ``tokenizer.json`` for encoding whole documents: no truncation, no padding, special tokens as plain text.

    Raises:
        UserError: the file is absent or is not a tokenizer.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; --tokenizer names a tokenizer.json file.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path} is not a tokenizer.json that can be read ({error}).") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return the size a model needs for this tokenizer: its largest id and one, added tokens included."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def end_of_document(tokenizer: Tokenizer, token: str | None) -> tuple[str, int]:
    """Return the token that ends a document and its id: the one named, else the first well-known one there is.

    Raises:
        UserError: the tokenizer has no such token.
    """
    for candidate in KNOWN_ENDS if token is None else (token,):
        if (token_id := tokenizer.token_to_id(candidate)) is not None:
            return candidate, token_id
    wanted = f"no token {token!r}" if token else f"none of {', '.join(KNOWN_ENDS)}"
    raise UserError(f"The tokenizer has {wanted}; name the token that ends a document with --end-of-document.")


def encode(tokenizer: Tokenizer, text: str, end_id: int) -> NDArray[np.int64]:
    """Return the token ids of one document with its end, int64 [its length]."""
    return np.append(encode_text(tokenizer, text), end_id)


def encode_text(tokenizer: Tokenizer, text: str) -> NDArray[np.int64]:
    """Return the token ids of a text, int64 [its length]."""
    parts = [
        np.array(tokenizer.encode_batch_fast([piece], add_special_tokens=False)[0].ids, np.int64)
        for piece in pieces(text)
    ]
    return np.concatenate(parts)


def pieces(text: str, limit: int = PIECE) -> Iterator[str]:
    """Cut a long text where cutting does not change its tokens, so that memory does not grow with a document.

    The cuts are where one line break or one space stands between two words, and leave the space to the second: there
    the pre-tokenizer of byte-level BPE cuts too. Texts of up to ``limit`` characters stay whole.
    """
    start = 0
    while len(text) - start > limit and (cut := SAFE_CUT.search(text, start + limit)):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]
