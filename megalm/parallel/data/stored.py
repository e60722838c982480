"""Tensors as one rank owns them: what a checkpoint is made of."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from megalm.boxes import Box
from megalm.parallel.data.bucket import Bucket
from megalm.param_spec import ParamSpec


@dataclass(frozen=True)
class Stored:
    """One entry of a checkpoint: boxes of this rank's slice, with their live values.

    Args:
        name: of the entry.
        spec: its whole shape, and how it is cut.
        dtype: of the values.
        boxes: what this rank owns.
        copies: what it needs too, but another rank of its shard owns: read, never saved.
    """

    name: str
    spec: ParamSpec
    dtype: torch.dtype
    boxes: list[tuple[Box, Tensor]]
    copies: list[tuple[Box, Tensor]] = field(default_factory=list)


def of_bucket(bucket: Bucket, prefix: str, flat: Tensor) -> Iterator[Stored]:
    """Yield what this rank owns of a bucket's parameters in a flat tensor of the owned range, under ``prefix``."""
    found: dict[str, Stored] = {
        slot.spec.name: Stored(prefix + slot.spec.name, slot.spec, flat.dtype, []) for slot in bucket.slots
    }
    for owned in bucket.owned():
        found[owned.slot.spec.name].boxes.append((owned.box, owned.view(flat)))
    yield from found.values()
