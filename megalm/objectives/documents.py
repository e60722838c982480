"""Where the documents of a sample begin."""

import torch
from torch import Tensor


def restarted(documents_bs: Tensor) -> Tensor:
    """Return the place of each token in its own document, int64 [b, s]; padding counts as one."""
    places = torch.arange(documents_bs.shape[1]).expand(documents_bs.shape)
    starts = torch.ones_like(documents_bs, dtype=torch.bool)
    starts[:, 1:] = documents_bs[:, 1:] != documents_bs[:, :-1]
    return places - torch.where(starts, places, 0).cummax(1).values
