"""Vectors of the numbers that each token has beside its own: its position, its segment."""

from torch import Tensor, nn

from megalm.parallel.tensor.region import Region
from megalm.param_spec import Init, ParamSpec
from megalm.parameters import new_parameter


class SmallEmbedding(nn.Module):
    """A learned vector for each of a few numbers, in a table that every rank holds whole.

    Args:
        count: rows of the table.
        hidden_size: length of a vector.
        std: standard deviation of the table.
        region: how the rows between blocks are cut; each rank looks up its own, so their gradient may be partial.
    """

    def __init__(self, count: int, hidden_size: int, std: float, region: Region) -> None:
        """See the class."""
        super().__init__()
        self.region = region
        self.weight = new_parameter(
            ParamSpec((count, hidden_size), Init.normal(std), partial_over=region.partial_over), {}
        )

    def forward(self, numbers_bs: Tensor) -> Tensor:
        """Return the vectors [n, hidden] of this rank's rows."""
        return nn.functional.embedding(self.region.local_rows(numbers_bs.flatten()), self.weight)
