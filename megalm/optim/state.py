"""What an update rule keeps for a bucket: flat tensors by name, that say themselves what a checkpoint holds of them."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from megalm.optim.rule import UpdateRule
from megalm.parallel.data.bucket import Bucket
from megalm.parallel.data.stored import Stored, of_bucket


class State(Mapping[str, Tensor]):
    """Flat tensors by name.

    Args:
        bucket: of which they are the state.
        tensors: zero at first.
    """

    def __init__(self, bucket: Bucket, tensors: Mapping[str, Tensor]) -> None:
        """See the class."""
        self.bucket = bucket
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @abstractmethod
    def stored(self, prefix: str) -> Iterator[Stored]:
        """Yield what a checkpoint holds of it, under ``prefix``, its name and the parameter's."""


class FlatState(State):
    """A tensor of the range that this rank owns for each name of the rule, as wide as the values.

    Args:
        rule: names them.
        bucket: of which they are the state.
    """

    def __init__(self, rule: UpdateRule, bucket: Bucket) -> None:
        """See the class."""
        super().__init__(bucket, {name: torch.zeros_like(bucket.owned_values) for name in rule.state_names})

    def stored(self, prefix: str) -> Iterator[Stored]:
        """See ``State``."""
        for name, flat in self.items():
            yield from of_bucket(self.bucket, f"{prefix}{name}.", flat)
