"""Samples of running numbers, so that a token says where it was."""

import numpy as np

from megalm.data.loader import Rows


def numbered(samples: list[int], length: int) -> Rows:
    """Return the rows of the samples with these numbers: sample n has the tokens 1000 n, 1000 n + 1, ..."""
    numbers = np.array(samples, np.int64)
    tokens_bs = numbers[:, np.newaxis] * 1000 + np.arange(length + 1)
    return Rows(tokens_bs, np.zeros(tokens_bs.shape, np.int32), numbers)
