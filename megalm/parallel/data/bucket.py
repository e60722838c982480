"""Flat buckets: the parameters of one block, and their gradients, in one piece of memory each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megalm.param_spec import ParamSpec, aligned
from megalm.parameters import spec_of


@dataclass(frozen=True)
class Slot:
    """Where one parameter lies in its bucket.

    Args:
        parameter: its values are a view of the bucket.
        spec: what it knows about itself.
        start: first element in the bucket.
        stop: one past its last.
    """

    parameter: nn.Parameter
    spec: ParamSpec
    start: int
    stop: int

    @property
    def end(self) -> int:
        """Where the next slot may begin: the elements from ``stop`` on are padding, and stay 0."""
        return aligned(self.stop)

    def view(self, flat: Tensor) -> Tensor:
        """Return the parameter's part of a flat tensor of the bucket, in the parameter's own shape."""
        return flat[self.start : self.stop].view(self.parameter.shape)


@dataclass(frozen=True)
class Bucket:
    """The trainable parameters of one block.

    Slots are ordered by (partial_over, decay), so that what is summed over a further axis, and what decays alike, is
    one range.

    Args:
        slots: the parameters.
        values: flat, in the parameters' dtype.
        gradients: flat, at least float32: the sums of a step.
    """

    slots: tuple[Slot, ...]
    values: Tensor
    gradients: Tensor

    def range_of(self, slots: Sequence[Slot]) -> slice:
        """Return the range that neighbouring slots span, padding included."""
        return slice(slots[0].start, slots[-1].end)

    def partial_ranges(self) -> dict[str, slice]:
        """Return, for each further axis over which gradients are partial, their range."""
        axes = dict.fromkeys(axis for slot in self.slots for axis in slot.spec.partial_over)
        return {axis: self.range_of([slot for slot in self.slots if axis in slot.spec.partial_over]) for axis in axes}

    def segments(self) -> list[tuple[bool, slice]]:
        """Return the ranges in which all parameters decay (True) or none does."""
        found: list[tuple[bool, slice]] = []
        for slot in self.slots:
            if found and found[-1][0] == slot.spec.decay:
                found[-1] = (slot.spec.decay, slice(found[-1][1].start, slot.end))
            else:
                found.append((slot.spec.decay, slice(slot.start, slot.end)))
        return found


def _add_to_sum(parameter: Tensor) -> None:
    """Move what autograd accumulated by itself (norms, plain torch layers) into the bucket."""
    if parameter.grad is not None:
        parameter.gradient_sum.add_(parameter.grad)  # type: ignore[attr-defined]
        parameter.grad = None


def give_storage(parameter: nn.Parameter, storage: Tensor) -> None:
    """Move the parameter's values into ``storage``; the object stays, so that ties stay.

    A parameter built on the meta device gets memory here for the first time; its values are drawn afterwards.
    """
    if not parameter.is_meta:
        storage.copy_(parameter.data)
    placed = nn.Parameter(storage, requires_grad=parameter.requires_grad)
    placed.spec = spec_of(parameter)  # type: ignore[attr-defined]
    torch.utils.swap_tensors(parameter, placed)


def make_bucket(parameters: Sequence[nn.Parameter], device: torch.device, dtype: torch.dtype) -> Bucket:
    """Move parameters into one flat piece of memory; each becomes a view of it."""
    ordered = sorted(parameters, key=lambda p: (spec_of(p).partial_over, spec_of(p).decay))
    total = sum(aligned(parameter.numel()) for parameter in ordered)
    values = torch.zeros(total, device=device, dtype=dtype)
    gradients = torch.zeros(total, device=device, dtype=torch.promote_types(dtype, torch.float32))
    slots: list[Slot] = []
    start = 0
    for parameter in ordered:
        slot = Slot(parameter, spec_of(parameter), start, start + parameter.numel())
        give_storage(parameter, slot.view(values))
        parameter.gradient_sum = slot.view(gradients)  # type: ignore[attr-defined]
        parameter.register_post_accumulate_grad_hook(_add_to_sum)
        slots.append(slot)
        start = slot.end
    return Bucket(tuple(slots), values, gradients)
