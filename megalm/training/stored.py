"""The tensors of a run as one rank owns them: what a checkpoint is made of."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megalm.boxes import Box
from megalm.parallel.data.bucket import Bucket
from megalm.param_spec import ParamSpec
from megalm.parameters import spec_of
from megalm.training.held import Held


@dataclass(frozen=True)
class Stored:
    """One entry of a checkpoint: the boxes, of this rank's slice, that the rank owns, with their live values."""

    name: str
    spec: ParamSpec
    dtype: torch.dtype
    boxes: list[tuple[Box, Tensor]]


def whole(spec: ParamSpec, tensor: Tensor) -> Stored:
    """Return a tensor of which this rank owns all that it holds."""
    return Stored(spec.name, spec, tensor.dtype, [(Box((0,) * tensor.dim(), tuple(tensor.shape)), tensor)])


def unlearned(model: nn.Module, held: Held) -> Iterator[Stored]:
    """Yield what no optimizer changes: frozen parameters, and buffers that a user's own module declares persistent."""
    buffers = {id(buffer) for buffer in held.buffers()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in buffers:
            yield whole(ParamSpec(tuple(tensor.shape), name=name), tensor)
    for parameter in held.parameters():
        if not parameter.requires_grad:
            yield whole(spec_of(parameter), parameter.data)


def of_bucket(bucket: Bucket, prefix: str, flat: Tensor) -> Iterator[Stored]:
    """Yield what this rank owns of a bucket's parameters in a flat tensor of the owned range, under ``prefix``."""
    found: dict[str, Stored] = {
        slot.spec.name: Stored(prefix + slot.spec.name, slot.spec, flat.dtype, []) for slot in bucket.slots
    }
    for owned in bucket.owned():
        found[owned.slot.spec.name].boxes.append((owned.box, owned.view(flat)))
    yield from found.values()
