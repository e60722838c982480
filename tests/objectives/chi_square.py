"""How likely counts are if each outcome has its share: Pearson's test."""

import numpy as np
import torch
from numpy.typing import ArrayLike


def chance(counts: ArrayLike, shares: ArrayLike | None = None) -> float:
    """Return the probability of counts at least as far from what is expected; equal shares where none are given."""
    seen = torch.tensor(np.asarray(counts), dtype=torch.float64)
    of = torch.ones_like(seen) if shares is None else torch.tensor(np.asarray(shares), dtype=torch.float64)
    expected = of / of.sum() * seen.sum()
    statistic = ((seen - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(seen) - 1) / 2, dtype=torch.float64), statistic / 2))
