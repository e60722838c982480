"""Reading the ``.bin/.idx`` pair: token ids in one flat file, and where each document begins.

The layout is the one that Megatron-LM, GPT-NeoX and nanotron read and write. All numbers are little-endian::

    .idx   magic (9 bytes) | version u64 | dtype code u8 | sequences n u64 | boundaries d u64
           | length of each sequence i32[n] | its byte offset in .bin i64[n] | document boundaries i64[d]
           | mode of each sequence i8[n], absent for text
    .bin   the token ids of all sequences, one after another

A document is a span of sequences: boundary k is the first sequence of document k, and the last boundary closes the
last document, so that there is one boundary more than documents. Our own files have one sequence a document, or as
many as a record has parts, whose modes say what each is for.
"""

import struct
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megalm.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest dtype that every reader of the format expects for a vocabulary of this size."""
    return np.dtype("<u2") if vocab_size < 65_500 else np.dtype("<i4")


def pair(prefix: Path) -> tuple[Path, Path]:
    """Return the two files of a prefix, ``.bin`` and ``.idx``; a dot in the prefix is part of its name."""
    return prefix.with_name(f"{prefix.name}.bin"), prefix.with_name(f"{prefix.name}.idx")


class IndexedTokens:
    """The tokens of a ``.bin/.idx`` pair, mapped from disk: memory does not grow with the corpus.

    Attributes:
        prefix: the path without extension.
        dtype: how a token id is stored.
        num_tokens, num_sequences, num_documents: what the pair holds.

    Raises:
        UserError: a file is absent, truncated, of another format, or does not hold integers.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        bin_path, idx_path = pair(prefix)
        for path, other in ((bin_path, idx_path), (idx_path, bin_path)):
            if not path.is_file():
                beside = f" though {other.name} is there" if other.is_file() else ""
                raise UserError(f"{path} is missing{beside}; a corpus is a pair of .bin and .idx files.")
        try:
            self._open(bin_path, idx_path)
        except OSError as error:
            raise UserError(f"{prefix}: cannot read this corpus ({error.strerror or error}).") from error

    def _open(self, bin_path: Path, idx_path: Path) -> None:
        with idx_path.open("rb") as stream:
            header = stream.read(HEADER.size)
        if not header.startswith(MAGIC[: len(header)]) or not header:
            raise UserError(f"{idx_path} is not an index of tokens (its first bytes are not MMIDIDX).")
        if len(header) < HEADER.size:
            raise UserError(f"{idx_path} is truncated: its header is not whole; prepare or copy it again.")
        _, version, code, sequences, boundaries = HEADER.unpack(header)
        if version != 1:
            raise UserError(f"{idx_path} has version {version} of the index format; only version 1 is known.")
        if code not in DTYPES or np.dtype(DTYPES[code]).kind == "f":
            raise UserError(f"{idx_path} says element type {code}, which cannot hold token ids.")
        bare = HEADER.size + 12 * sequences + 8 * boundaries
        if idx_path.stat().st_size not in (bare, bare + sequences):
            state = "truncated" if idx_path.stat().st_size < bare else "longer than it says"
            raise UserError(
                f"{idx_path} is {state}: {sequences} sequences need {bare} bytes; prepare or copy it again."
            )

        self.dtype: np.dtype[Any] = np.dtype(DTYPES[code])
        self.num_sequences: int = sequences
        self.num_documents: int = max(boundaries - 1, 0)
        index = np.asarray(np.memmap(idx_path, np.uint8, "r"))[HEADER.size :]
        self._lengths = index[: 4 * sequences].view("<i4")
        self._offsets = index[4 * sequences : 12 * sequences].view("<i8")
        self._boundaries = index[12 * sequences : 12 * sequences + 8 * boundaries].view("<i8")
        self._modes = index[12 * sequences + 8 * boundaries :].view("<i1")

        end = int(self._offsets[-1]) + int(self._lengths[-1]) * self.dtype.itemsize if sequences else 0
        size = bin_path.stat().st_size
        if size != end or (sequences and self._offsets[0] != 0):
            state = "truncated" if size < end else "not the one of its .idx"
            raise UserError(
                f"{bin_path} is {state}: {size} bytes where the index says {end}; prepare or copy it again."
            )
        self.num_tokens: int = end // self.dtype.itemsize
        self._tokens = np.asarray(np.memmap(bin_path, self.dtype, "r")) if end else np.zeros(0, self.dtype)

    def tokens(self, start: int, count: int) -> NDArray[np.int64]:
        """Return ``count`` token ids from position ``start`` of the whole corpus, int64 [count]."""
        return self._tokens[start : start + count].astype(np.int64)

    def document(self, index: int) -> NDArray[np.int64]:
        """Return the token ids of one document, int64 [its length]."""
        start, end = (self._token_of(int(boundary)) for boundary in self._boundaries[index : index + 2])
        return self.tokens(start, end - start)

    def parts(self, index: int) -> list[tuple[int, NDArray[np.int64]]]:
        """Return the sequences of one document, each with its mode and its tokens, int64 [its length]."""
        first, last = self._boundaries[index : index + 2]
        modes = self.modes()[first:last].tolist()
        return [
            (mode, self.tokens(self._token_of(sequence), int(self._lengths[sequence])))
            for mode, sequence in zip(modes, range(first, last), strict=True)
        ]

    def boundaries(self) -> NDArray[np.int64]:
        """Return the first sequence of each document, and behind the last one the number of all, int64 [documents + 1].

        An index without any document may have none.
        """
        return self._boundaries.astype(np.int64) if len(self._boundaries) else np.zeros(1, np.int64)

    def sequence_lengths(self) -> NDArray[np.int32]:
        """Return the number of tokens of each sequence, int32 [num_sequences]."""
        return self._lengths.astype(np.int32)

    def modes(self) -> NDArray[np.int8]:
        """Return what each sequence is for, int8 [num_sequences]; 0 where the index says nothing."""
        return self._modes if len(self._modes) else np.zeros(self.num_sequences, np.int8)

    def document_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each document, int64 [num_documents]."""
        starts = np.append(self._offsets // self.dtype.itemsize, self.num_tokens)
        lengths: NDArray[np.int64] = np.diff(starts[self._boundaries])
        return lengths

    def documents(self, start: int, count: int) -> NDArray[np.int32]:
        """Return for each position of a span the number of its document, counted from 0 at the span's first token.

        Shapes: int32 [count], not decreasing. The cost does not grow with the corpus.
        """
        starts_here = np.zeros(count, np.int32)
        first = bisect_right(self._boundaries, self._sequence_of(start))
        last = bisect_right(self._boundaries, self._sequence_of(start + count - 1))
        for boundary in self._boundaries[first:last]:
            starts_here[self._token_of(int(boundary)) - start] = 1
        return np.cumsum(starts_here, dtype=np.int32)

    def _sequence_of(self, token: int) -> int:
        return bisect_right(self._offsets, token * self.dtype.itemsize) - 1

    def _token_of(self, sequence: int) -> int:
        return int(self._offsets[sequence]) // self.dtype.itemsize if sequence < self.num_sequences else self.num_tokens
