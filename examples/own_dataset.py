"""A source of samples of your own: the bytes of a plain text file, without a tokenizer and without preparation.

Name it in the run file, and run the command where this file can be imported::

    model: {family: gpt2, vocab_size: 256, ...}
    data:  {train: [{path: "examples.own_dataset:python_manual"}]}

megalm calls ``python_manual(seq_length, seed)`` once on each rank, asks the result for its length and for samples by
number, and does the rest: every epoch visits every sample once, in another order, the same for any layout.
"""

import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ByteWindows:
    """Windows of ``seq_length + 1`` bytes of a file; a token id is a byte, and neighbours share one.

    Args:
        path: a file of plain UTF-8 text; it is mapped from disk, so it may be larger than the memory.
        seq_length: tokens that a sample predicts.
    """

    def __init__(self, path: Path, seq_length: int) -> None:
        self._bytes = np.memmap(path, np.uint8, "r")
        self._seq_length = seq_length

    def __len__(self) -> int:
        """Return the number of samples of an epoch."""
        return (len(self._bytes) - 1) // self._seq_length

    def __getitem__(self, index: int) -> NDArray[np.integer[Any]]:
        """Return sample ``index``, uint8 [seq_length + 1]."""
        start = index * self._seq_length
        return self._bytes[start : start + self._seq_length + 1]


def python_manual(seq_length: int, seed: int) -> ByteWindows:
    """Return windows of the reference manual that every Python carries for its ``help()``.

    Args:
        seq_length: from ``train.seq_length``.
        seed: from ``run.seed``; a source that draws at random should draw from it. This one does not.
    """
    return ByteWindows(Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py", seq_length)
