"""Whole tensors, and the parts of them that go into a bucket."""

from collections.abc import Mapping

import torch
from torch import Tensor

from megalm.parallel.data.bucket import Bucket


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def put_parts(bucket: Bucket, into: Tensor, whole: Mapping[str, Tensor], positions: Mapping[str, int]) -> None:
    """Put of each parameter the boxes that this rank owns into a flat tensor of the owned range.

    Args:
        bucket: whose owned range it is.
        into: the flat tensor.
        whole: tensors by the names of parameters.
        positions: this rank's position on each model axis, by name.
    """
    for owned in bucket.owned():
        spec = owned.slot.spec
        starts = owned.box.moved([part.start for part in spec.local_slices(positions)])
        here = tuple(slice(start, start + size) for start, size in zip(starts, owned.box.sizes, strict=True))
        owned.view(into).copy_(whole[spec.name][here])
