"""One optimizer over the ranges that this rank owns."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from megalm import collectives
from megalm.mesh import Axis
from megalm.optim.element_update import ElementUpdate
from megalm.optim.layer_update import LayerUpdate
from megalm.optim.quantized_state import QuantizedState
from megalm.optim.quantized_update import QuantizedUpdate
from megalm.optim.rule import LayerRule, QuantizedRule, UpdateRule
from megalm.optim.state import FlatState, State
from megalm.optim.updates import OffloadedUpdates, Update, Updates, with_gradients_on
from megalm.parallel.data.bucket import Bucket

CLIP_EPS = 1e-6
"""Added to the norm before dividing by it, as torch's clipping does."""


class Optimizer:
    """Clips and updates the buckets; those whose owned values lie on the host are updated there.

    Args:
        rule: the update rule.
        buckets: values and complete gradients.
        axes: the ranks of all of them together own one copy of the model; norms are summed over each in turn.
        holders: the ranks of these axes together own one copy of each parameter that this rank has a part of.
        positions: this rank's position on each model axis, by name.
        layer_lr_decay: the learning rate of a block is this times that of the next one.
        clip_grad_norm: largest global gradient norm; 0 never scales.

    Attributes:
        state: of each bucket, what the rule keeps by name, where the owned values lie.
        updated: the buckets as the rule sees them: with owned values on the host, a copy of the gradients there too.
    """

    def __init__(
        self,
        rule: UpdateRule,
        buckets: Sequence[Bucket],
        *,
        axes: Sequence[Axis],
        holders: Sequence[Axis],
        positions: Mapping[str, int],
        layer_lr_decay: float = 1.0,
        clip_grad_norm: float,
    ) -> None:
        """See the class."""
        self.buckets = buckets
        self.updates = 0
        self._axes = axes
        self._clip_grad_norm = clip_grad_norm
        self._counted = list(_counted(buckets, positions))
        rates = [_lr_scale(bucket, layer_lr_decay) for bucket in buckets]
        host = next((bucket.host for bucket in buckets), None)
        self.updated = buckets if host is None else [with_gradients_on(host, bucket) for bucket in buckets]
        self.state, updates = _state_and_updates(rule, self.updated, rates, holders, positions)
        self._update = Updates(updates) if host is None else OffloadedUpdates(host, buckets, updates)

    def grad_norm(self) -> float:
        """Return the norm of the whole gradient: each element of each parameter is counted once."""
        norms = list(torch._foreach_norm(self._counted)) if self._counted else []
        total = torch.stack(norms).double().square().sum().cpu() if norms else torch.zeros((), dtype=torch.float64)
        for axis in self._axes:
            collectives.all_reduce(total, axis, scalar=True)
        return math.sqrt(total.item())

    def clip(self, loss_scale: float = 1.0) -> float:
        """Scale all gradients so that their global norm is at most the configured one; return the norm before.

        Args:
            loss_scale: the gradients are so many times too large.
        """
        norm = self.grad_norm() / loss_scale
        scale = 1 / loss_scale
        if self._clip_grad_norm:
            scale *= min(1.0, self._clip_grad_norm / (norm + CLIP_EPS))
        if math.isfinite(norm) and scale != 1:
            for bucket in self.buckets:
                bucket.owned_gradients.mul_(scale)
        return norm

    def step(self, lr: float) -> None:
        """Update all values that this rank owns."""
        self.updates += 1
        self._update(lr, self.updates)


def _state_and_updates(
    rule: UpdateRule,
    buckets: Sequence[Bucket],
    rates: Sequence[float],
    holders: Sequence[Axis],
    positions: Mapping[str, int],
) -> tuple[Sequence[State], Sequence[Update]]:
    """Return the state of each bucket, and the updates of all, as the rule's type asks."""
    if isinstance(rule, QuantizedRule):
        quantized = [QuantizedState(rule, bucket, positions) for bucket in buckets]
        return quantized, [QuantizedUpdate(rule, quantized, rates, holders=holders, positions=positions)]
    flat = [FlatState(rule, bucket) for bucket in buckets]
    if isinstance(rule, LayerRule):
        return flat, [LayerUpdate(rule, buckets, flat, rates, holders=holders, positions=positions)]
    return flat, [ElementUpdate(rule, *each) for each in zip(buckets, flat, rates, strict=True)]


def _lr_scale(bucket: Bucket, layer_lr_decay: float) -> float:
    """Return the factor of the learning rate of the block that a bucket is of."""
    return layer_lr_decay ** bucket.slots[0].spec.blocks_from_end if bucket.slots else 1.0


def _counted(buckets: Sequence[Bucket], positions: Mapping[str, int]) -> Iterator[Tensor]:
    """Yield the owned gradients that this rank counts, parameter by parameter."""
    for bucket in buckets:
        for owned in bucket.owned():
            counted = owned.slot.spec.owned_slices(positions)
            part = None if counted is None else owned.box.within(counted)
            if part is not None:
                yield owned.view(bucket.owned_gradients)[part.slices()]
