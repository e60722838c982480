"""Dropout by global position: the same elements drop at every layout and in every recomputation."""

import torch
from torch import Tensor, nn

from megalm import rng
from megalm.mesh import Axis
from megalm.parallel.tensor.region import Region


class Dropout(nn.Module):
    """Dropout of the rows between blocks, drawn by (stream, token of the run, feature).

    Args:
        p: the share that is dropped.
        axis: the tensor axis.
        sequence_parallel: whether the rows are cut over the axis.
    """

    def __init__(self, p: float, axis: Axis, *, sequence_parallel: bool = False) -> None:
        """See the class."""
        super().__init__()
        self.p = p
        self.region = Region(axis, sequence_parallel)
        self.stream = rng.key("unnamed")

    def forward(self, x: Tensor, token_rows: Tensor) -> Tensor:
        """Drop elements of rows [n, hidden].

        Args:
            x: this rank's rows.
            token_rows: int64 [t], the run-wide number of every token of the micro-batch.
        """
        if not self.training or self.p == 0:
            return x
        rows = self.region.local_rows(token_rows)
        kept = rng.keep_mask(self.stream, rows, torch.arange(x.shape[-1], device=x.device), self.p)
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


class InnerDropout(nn.Module):
    """Dropout inside a span, where rows are whole and features are cut: drawn as ``Dropout`` draws them.

    Args:
        p: the share that is dropped.
        first_feature: where this rank's features begin.
    """

    def __init__(self, p: float, first_feature: int) -> None:
        """See the class."""
        super().__init__()
        self.p, self.first_feature = p, first_feature
        self.stream = rng.key("unnamed")

    def forward(self, x: Tensor, token_rows: Tensor) -> Tensor:
        """Drop elements of whole rows [tokens and padding, local features]; see ``Dropout``."""
        if not self.training or self.p == 0:
            return x
        columns = torch.arange(self.first_feature, self.first_feature + x.shape[-1], device=x.device)
        rows = nn.functional.pad(token_rows, (0, x.shape[0] - token_rows.shape[0]))
        return x * rng.keep_mask(self.stream, rows, columns, self.p).to(x.dtype).mul_(1 / (1 - self.p))


def name_streams(model: nn.Module, seed: int) -> None:
    """Give each dropout the stream named by (seed, its path in the whole model)."""
    for name, module in model.named_modules():
        if hasattr(module, "stream"):
            module.stream = rng.key(seed, "dropout", name)
