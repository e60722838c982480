"""Writing the ``.bin/.idx`` pair that ``indexed.py`` describes."""

import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from megalm.data.files import whole_file
from megalm.data.indexed import DTYPES, HEADER, MAGIC, IndexedTokens, pair
from megalm.errors import UserError

COPY_TOKENS = 1 << 22


class IndexedWriter:
    """Write documents of token ids; neither file exists under its name before both are whole.

    Use it as a context manager; leaving it by an exception leaves nothing behind. Memory: 13 bytes a document.

    Args:
        prefix: the path without extension.
        dtype: how to store a token id (see ``token_dtype``).
    """

    def __init__(self, prefix: Path, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._code = next(code for code, name in DTYPES.items() if np.dtype(name) == dtype)
        self._bin_path, self._idx_path = pair(prefix)
        self._partial = self._bin_path.with_name(f"{self._bin_path.name}.partial-{os.getpid()}")
        self._lengths = array("i")
        self._modes = array("b")
        self._boundaries = array("q", [0])
        self._stream = self._partial.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._stream.close()
            self._partial.unlink(missing_ok=True)

    def add_document(self, tokens: NDArray[np.integer[Any]]) -> None:
        """Append one document of one sequence, [its length] token ids; see ``add_parts``."""
        self.add_parts([(0, tokens)])

    def add_parts(self, parts: Sequence[tuple[int, NDArray[np.integer[Any]]]]) -> None:
        """Append one document of several sequences, each with its mode, 0 to 127.

        Raises:
            UserError: an id does not fit the dtype, or a sequence has more tokens than the format can count.
        """
        limits = np.iinfo(self._dtype)
        for mode, tokens in parts:
            if len(tokens) and (int(tokens.min()) < 0 or int(tokens.max()) > limits.max):
                raise UserError(f"{self._bin_path}: a token id does not fit {self._dtype.name}; use a wider dtype.")
            if len(tokens) > np.iinfo(np.int32).max:
                raise UserError(
                    f"{self._bin_path}: a document of {len(tokens)} tokens is too long for the format; split it."
                )
            self._stream.write(tokens.astype(self._dtype).tobytes())
            self._lengths.append(len(tokens))
            self._modes.append(mode)
        self._boundaries.append(len(self._lengths))

    def add_corpus(self, corpus: IndexedTokens) -> None:
        """Append all documents of another pair of the same dtype."""
        for index in range(0, corpus.num_tokens, COPY_TOKENS):
            count = min(COPY_TOKENS, corpus.num_tokens - index)
            self._stream.write(corpus.tokens(index, count).astype(self._dtype).tobytes())
        before = len(self._lengths)
        self._boundaries.extend((corpus.boundaries()[1:] + before).tolist())
        self._lengths.extend(corpus.sequence_lengths().tolist())
        self._modes.extend(corpus.modes().tolist())

    def _finish(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        lengths = np.frombuffer(self._lengths, np.int32) if self._lengths else np.zeros(0, np.int32)
        ends = np.cumsum(lengths, dtype=np.int64)
        with whole_file(self._idx_path) as stream:
            stream.write(HEADER.pack(MAGIC, 1, self._code, len(lengths), len(self._boundaries)))
            stream.write(lengths.astype("<i4").tobytes())
            stream.write(((ends - lengths) * self._dtype.itemsize).astype("<i8").tobytes())
            stream.write(np.frombuffer(self._boundaries, np.int64).astype("<i8").tobytes())
            if any(self._modes):
                stream.write(np.frombuffer(self._modes, np.int8).tobytes())
            self._partial.replace(self._bin_path)
