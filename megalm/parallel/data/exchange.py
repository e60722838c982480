"""The sum of gradients over the ranks that saw other tokens."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from megalm import collectives
from megalm.mesh import Axis
from megalm.parallel.data.bucket import Bucket, Slot


class GradientExchange:
    """Sums each bucket's gradients over the data ranks, and over further axes where their specs say so.

    The data ranks' sums run behind the backward of the blocks before.

    Args:
        buckets: one a block, in the order of the blocks.
        data: the axis of the data ranks.
        axes: the model axes that specs name, by name.
        ties: by the name of a parameter of which several pipeline ranks hold a copy, the axis of these ranks.
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        data: Axis,
        axes: Mapping[str, Axis],
        ties: Mapping[str, Axis] = MappingProxyType({}),
    ) -> None:
        """See the class."""
        self.buckets = buckets
        self._data = data
        self._axes = axes
        slots = [(slot, bucket) for bucket in buckets for slot in bucket.slots if slot.spec.name in ties]
        copies = {slot.spec.name: slot.view(bucket.gradients) for slot, bucket in slots}
        self._copies = [(copies[name], axis) for name, axis in ties.items()]
        self._running: list[collectives.Handle] = []

    def zero(self) -> None:
        """Begin a step: no gradient is known."""
        for bucket in self.buckets:
            bucket.gradients.zero_()

    def reduce(self, block: int) -> None:
        """Start the sums of one block's gradients."""
        bucket = self.buckets[block]
        if not bucket.slots:
            return
        for name, span in bucket.partial_ranges().items():
            collectives.all_reduce(bucket.gradients[span], self._axes[name])
        for slot in bucket.slots:
            if slot.spec.split is not None and slot.spec.split.overlaps:
                self._sum_shared_rows(bucket, slot)
        self._running.append(collectives.all_reduce_async(bucket.gradients, self._data))

    def _sum_shared_rows(self, bucket: Bucket, slot: Slot) -> None:
        """Sum the gradient of rows that several ranks hold (a key head read by the query heads of two ranks)."""
        assert slot.spec.split is not None
        axis = self._axes[slot.spec.split.axis]
        local = slot.view(bucket.gradients)
        part = slot.spec.local_slices({axis.name: axis.rank})
        whole = torch.zeros(slot.spec.shape, dtype=local.dtype, device=local.device)
        whole[part] = local
        local.copy_(collectives.all_reduce(whole, axis)[part])

    def finish(self) -> None:
        """Return when all sums that were started are in place, those of tied copies too.

        Copies are summed last: a rank that waited for another one before its own work is done could wait for ever.
        """
        for work in self._running:
            work.wait()
        self._running.clear()
        for gradient, axis in self._copies:
            collectives.all_reduce(gradient, axis)
