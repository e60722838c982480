"""Random tokens as a corpus: what a model learns does not change the memory it takes."""

import numpy as np
from numpy.typing import NDArray

NUM_TOKENS = 8192


class RandomWindows:
    """Samples drawn anew whenever they are asked for."""

    def __init__(self, seq_length: int, seed: int) -> None:
        """See the class."""
        self._seq_length, self._seed = seq_length, seed

    def __len__(self) -> int:
        """Return how many there are."""
        return 1000

    def __getitem__(self, index: int, /) -> NDArray[np.int64]:
        """Return one, with the token after its last."""
        return np.random.default_rng((self._seed, index)).integers(0, NUM_TOKENS, self._seq_length + 1)


def random_windows(seq_length: int, seed: int) -> RandomWindows:
    """Return the corpus, as ``data.train[].path`` names it."""
    return RandomWindows(seq_length, seed)
