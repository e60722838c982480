"""What an update rule keeps for a bucket, in numbers as wide as the values."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from megalm.optim.rule import UpdateRule
from megalm.parallel.data.bucket import Bucket
from megalm.parallel.data.stored import Stored, of_bucket


class FlatState(Mapping[str, Tensor]):
    """A tensor of the range that this rank owns for each name of the rule, zero at first.

    Args:
        rule: names them.
        bucket: of which they are the state.
    """

    def __init__(self, rule: UpdateRule, bucket: Bucket) -> None:
        """See the class."""
        self._bucket = bucket
        self._tensors = {name: torch.zeros_like(bucket.owned_values) for name in rule.state_names}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def stored(self, prefix: str) -> Iterator[Stored]:
        """Yield what a checkpoint holds of it, under ``prefix``, its name and the parameter's."""
        for name, flat in self._tensors.items():
            yield from of_bucket(self._bucket, f"{prefix}{name}.", flat)
