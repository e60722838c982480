"""Where the tokens of samples stand, and the numbers that name them to random draws."""

import torch
from torch import Tensor

from megalm.data.loader import Rows


def places_of(rows: Rows, length: int, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the place of each token in its sample, and a number that no other token of the run has.

    Shapes: int64 [b, length] each.

    Args:
        rows: the samples.
        length: tokens of a sample.
        longest: of any sample of the run, where they are not all as long.
    """
    places_bs = torch.arange(length).expand(len(rows.samples_b), length)
    return places_bs, torch.from_numpy(rows.samples_b).unsqueeze(1) * (longest or length) + places_bs
