"""What an objective draws of a sample: a pure function of the seed, the sample's number and what it is drawn for."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from megalm import rng


@dataclass(frozen=True)
class Draws:
    """The random numbers of some samples.

    Args:
        seed: of the run.
        samples_b: their numbers, int64 [b].
    """

    seed: int
    samples_b: NDArray[np.int64]

    def uniform(self, purpose: str, count: int) -> NDArray[np.float64]:
        """Return ``count`` numbers of [0, 1) for each sample, float64 [b, count]; a purpose has a stream of its own."""
        rows, columns = torch.from_numpy(self.samples_b), torch.arange(count)
        bits = rng.bits(rng.key(self.seed, "objective", purpose), rows, columns)
        return (bits.double().numpy() + 2**31) / 2**32

    def order(self, purpose: str, count: int) -> NDArray[np.int64]:
        """Return a permutation of ``count`` things for each sample, int64 [b, count]."""
        return self.uniform(purpose, count).argsort(-1, kind="stable")
