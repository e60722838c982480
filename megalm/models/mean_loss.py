"""The means of the losses that a model's loss is a weighted sum of, told while somebody asks."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MeanLoss(nn.Module):
    """One of the losses: it passes through, and its sum and count are kept while somebody asks.

    Args:
        name: under which it is told.
    """

    def __init__(self, name: str) -> None:
        """See the class."""
        super().__init__()
        self.name = name
        self.seen: Tensor | None = None

    def forward(self, loss: Tensor, scale: float, count: int) -> Tensor:
        """Return ``loss``.

        Args:
            loss: the sum over what is learned of a micro-batch, times ``scale``.
            scale: 0 where nothing is learned.
            count: how much is learned of the micro-batch.
        """
        if self.seen is not None and scale:
            self.seen[0] += loss.detach() / scale
            self.seen[1] += count
        return loss


@contextmanager
def told(modules: Iterable[nn.Module], device: torch.device | str) -> Iterator[dict[str, Tensor]]:
    """Ask the losses among the modules for their means.

    Yields:
        By name float64 [2], up to now: the sum of the losses, and how many they are of; zeros on a rank of the
        pipeline that has not got them.
    """
    losses = [module for module in modules if isinstance(module, MeanLoss)]
    for loss in losses:
        loss.seen = torch.zeros(2, dtype=torch.float64, device=device)
    try:
        yield {loss.name: loss.seen for loss in losses if loss.seen is not None}
    finally:
        for loss in losses:
            loss.seen = None


def means(seen: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean of each loss that was seen, of what ``told`` yields, summed over the ranks."""
    pairs = {name: both.tolist() for name, both in seen.items()}
    return {name: total / count for name, (total, count) in pairs.items() if count}
