"""Flat buckets: the parameters of one block and their gradients, and the range of them that this rank owns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from megalm.boxes import Box, boxes
from megalm.host import Host
from megalm.mesh import Axis
from megalm.parallel.data.memory import GradientMemory, ValueMemory
from megalm.param_spec import ALIGNMENT, ParamSpec, aligned
from megalm.parameters import spec_of


@dataclass(frozen=True)
class Slot:
    """Where one parameter lies in its bucket.

    Args:
        parameter: its values are a view of the bucket.
        spec: what it knows about itself.
        start: first element in the bucket.
        stop: one past its last.
        end: where the next slot begins. The elements from ``stop`` on are padding and stay 0: room for the largest
            slice of any rank, so that a replicated parameter lies at the same place on all of them.
    """

    parameter: nn.Parameter
    spec: ParamSpec
    start: int
    stop: int
    end: int

    def view(self, flat: Tensor) -> Tensor:
        """Return the parameter's part of a flat tensor of the bucket, in the parameter's own shape."""
        return flat[self.start : self.stop].view(self.parameter.shape)


@dataclass(frozen=True)
class Owned:
    """What this rank owns of one parameter: a box of its slice.

    Args:
        slot: of the parameter.
        box: by offsets in this rank's slice of it.
        start: where its elements begin in the range that the rank owns.
    """

    slot: Slot
    box: Box
    start: int

    def view(self, owned: Tensor) -> Tensor:
        """Return its part of a flat tensor of the owned range, in the box's shape."""
        return owned[self.start : self.start + self.box.num_elements].view(self.box.sizes)


@dataclass(frozen=True, eq=False)
class Bucket:
    """The trainable parameters of one block, or one parameter that several ranks of the pipeline hold copies of.

    Slots are ordered by (partial_over, decay), so that what is summed over a further axis, and what decays alike, is
    one range. The ZeRO stage says what there is beside the owned range between uses: all values and all gradients
    (0, 1), all values (2), nothing (3).

    Args:
        slots: the parameters.
        values: of all parameters, in their dtype.
        gradients: of all parameters, at least float32: the sums of a step, or since they were last reduced.
        span: the range that this rank owns.
        shard: this range of the values, in their dtype.
        owned_values: the same, at least float32, as the optimizer updates it; of 16-bit parameters, and on the host, a
            master copy.
        owned_gradients: this range of the gradients, summed over all ranks when a step is reduced.
        zero_stage: 0 to 3.
        host: whose memory has the owned values; ``None`` where they are on the device.
    """

    slots: tuple[Slot, ...]
    values: ValueMemory
    gradients: GradientMemory
    span: slice
    shard: Tensor
    owned_values: Tensor
    owned_gradients: Tensor
    zero_stage: int
    host: Host | None = None

    def round_values(self) -> None:
        """Make the values of the owned range what the optimizer has, in the parameters' dtype."""
        if self.host is not None:
            rounded = self.owned_values
            if rounded.dtype != self.shard.dtype:  # here, since fewer bytes travel
                rounded = self.host.empty(len(rounded), self.shard.dtype).copy_(rounded)
            self.host.reload(rounded, self.shard).wait()
        elif self.shard is not self.owned_values:
            self.shard.copy_(self.owned_values)

    def owned(self) -> Iterator[Owned]:
        """Yield what this rank owns, in the order of the slots."""
        for slot in self.slots:
            start, stop = max(slot.start, self.span.start), min(slot.stop, self.span.stop)
            for box in boxes(slot.parameter.shape, start - slot.start, stop - slot.start):
                yield Owned(slot, box, start - self.span.start)
                start += box.num_elements

    def partial_ranges(self) -> dict[str, slice]:
        """Return, for each further axis over which gradients are partial, their range in the bucket."""
        found: dict[str, slice] = {}
        for slot in self.slots:
            for axis in slot.spec.partial_over:
                found[axis] = slice(found[axis].start if axis in found else slot.start, slot.end)
        return found

    def segments(self) -> list[tuple[bool, slice]]:
        """Return the parts of the owned range in which all parameters decay (True) or none does."""
        found: list[tuple[bool, slice]] = []
        filled = (slot for slot in self.slots if slot.start < slot.end)
        for decay, group in groupby(filled, key=lambda slot: slot.spec.decay):
            slots = list(group)
            start, stop = max(slots[0].start, self.span.start), min(slots[-1].end, self.span.stop)
            if start < stop:
                found.append((decay, slice(start - self.span.start, stop - self.span.start)))
        return found


def make_bucket(
    parameters: Sequence[nn.Parameter],
    device: torch.device,
    dtype: torch.dtype,
    *,
    shard: Axis | None = None,
    zero_stage: int = 0,
    host: Host | None = None,
) -> Bucket:
    """Move parameters into one flat piece of memory; each becomes a view of it.

    Args:
        parameters: of one block. Those on the meta device have no values yet; of the others this rank keeps its own.
        device: where the bucket lies.
        dtype: of the values.
        shard: the axis whose ranks own a part each; ``None`` owns all.
        zero_stage: 0 to 3.
        host: whose memory has what the optimizer updates; ``None`` leaves it on the device.
    """
    ordered = sorted(parameters, key=lambda p: (spec_of(p).partial_over, spec_of(p).decay))
    starts = [0]
    for parameter in ordered:
        starts.append(starts[-1] + aligned(spec_of(parameter).room()))
    parts, position = (1, 0) if shard is None else (shard.size, shard.rank)
    share = -(-starts[-1] // (parts * ALIGNMENT)) * ALIGNMENT
    values = ValueMemory(parts * share, device, dtype)
    sum_dtype = torch.promote_types(dtype, torch.float32)
    gradients = GradientMemory(parts * share, device, sum_dtype, kept=zero_stage < 2)
    if zero_stage < 3:
        values.tensor.zero_()
    span = slice(position * share, (position + 1) * share)
    shard_values = values.tensor[span] if zero_stage < 3 else torch.zeros(share, device=device, dtype=dtype)
    slots = tuple(
        Slot(parameter, spec_of(parameter), start, start + parameter.numel(), end)
        for parameter, start, end in zip(ordered, starts[:-1], starts[1:], strict=True)
    )
    owned_values = shard_values
    if host is not None:
        owned_values = host.empty(share, sum_dtype).zero_()
    elif dtype != sum_dtype:
        owned_values = torch.zeros(share, device=device, dtype=sum_dtype)
    bucket = Bucket(
        slots,
        values,
        gradients,
        span,
        shard_values,
        owned_values,
        gradients.tensor[span] if zero_stage < 2 else torch.zeros(share, device=device, dtype=sum_dtype),
        zero_stage,
        host,
    )
    for owned in bucket.owned():
        if not owned.slot.parameter.is_meta:
            owned.view(bucket.owned_values).copy_(owned.slot.parameter.data[owned.box.slices()])
    bucket.round_values()
    for slot in slots:
        if not slot.parameter.is_meta and zero_stage < 3:
            slot.view(values.tensor).copy_(slot.parameter.data)
        give_storage(slot.parameter, slot.view(values.tensor))
        slot.parameter.gradient_sum = _GradientSum(bucket, slot)  # type: ignore[attr-defined]
        slot.parameter.register_post_accumulate_grad_hook(_add_to_sum)
    if zero_stage == 3:
        values.give_back()
    return bucket


def give_storage(parameter: nn.Parameter, storage: Tensor) -> None:
    """Make the parameter a view of ``storage``; the object stays, so that ties stay. Values are not copied."""
    placed = nn.Parameter(storage, requires_grad=parameter.requires_grad)
    placed.spec = spec_of(parameter)  # type: ignore[attr-defined]
    torch.utils.swap_tensors(parameter, placed)


class _GradientSum:
    """Finds where a parameter's gradients are summed."""

    def __init__(self, bucket: Bucket, slot: Slot) -> None:
        self._bucket, self._slot = bucket, slot

    def __call__(self) -> Tensor:
        return self._slot.view(self._bucket.gradients.tensor)


def _add_to_sum(parameter: Tensor) -> None:
    """Move what autograd accumulated by itself (norms, plain torch layers) into the bucket."""
    if parameter.grad is not None:
        parameter.gradient_sum().add_(parameter.grad)  # type: ignore[attr-defined]
        parameter.grad = None
