"""What the data-parallel ranks exchange: sums of gradients, and parameters where each rank owns only a part of them.

All ZeRO stages (Rajbhandari et al. 2020) are one mechanism with less kept between uses. A block's gradients are summed
so that each rank has the sum of the range that it owns, and updated values are collected from their owners. At stage 0
a rank owns everything; at 1 it keeps all gradients of a step and reduces once; at 2 it reduces after each micro-batch
and keeps its own range; at 3 the values, too, are collected before a block uses them and given back after.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from megalm import collectives
from megalm.mesh import Axis
from megalm.parallel.data.bucket import Bucket, Slot

Place = tuple[int, int]
"""A block by its stage and its number in the stage."""


@dataclass
class _Running:
    """The sum of a bucket's gradients under way; ``share`` receives the owned range where it is not summed in place."""

    bucket: Bucket
    num_bytes: int
    share: Tensor | None
    handle: collectives.Handle


class Exchange:
    """Sums gradients over the data ranks, and over further axes where their specs say so; collects parameters.

    Args:
        buckets: of each block; a parameter in several blocks lies with the first.
        shard: the axis of the data ranks that own a part each; of one rank at stage 0.
        replicas: the axis of the data ranks that own the same part.
        axes: the model axes that specs name, by name.
        uses: the buckets of other blocks that a block reads too (a tied table).
        ties: by the name of a parameter of which several pipeline ranks hold a copy, the axis of these ranks; it lies
            in a bucket of its own.
    """

    def __init__(
        self,
        buckets: Mapping[Place, Sequence[Bucket]],
        shard: Axis,
        replicas: Axis,
        axes: Mapping[str, Axis],
        uses: Mapping[Place, Sequence[Bucket]] = MappingProxyType({}),
        ties: Mapping[str, Axis] = MappingProxyType({}),
    ) -> None:
        """See the class."""
        self._own = buckets
        self._buckets = [bucket for held in buckets.values() for bucket in held]
        self._shard, self._replicas, self._axes = shard, replicas, axes
        self._used = {
            place: [bucket for bucket in (*held, *uses.get(place, ())) if bucket.zero_stage == 3 and bucket.slots]
            for place, held in buckets.items()
        }
        copies = {slot.spec.name: bucket for bucket in self._buckets for slot in bucket.slots if slot.spec.name in ties}
        self._copies = [(copies[name], axis) for name, axis in ties.items()]
        self._running: deque[_Running] = deque()
        self._users: Counter[Bucket] = Counter()
        self._gathering: dict[Bucket, collectives.Handle] = {}

    @property
    def bytes_under_way(self) -> int:
        """The bytes of the gradients that are being summed."""
        return sum(running.num_bytes for running in self._running)

    def zero(self) -> None:
        """Begin a step: no gradient is known."""
        for bucket in self._buckets:
            if bucket.zero_stage < 2:
                bucket.gradients.tensor.zero_()
            else:
                bucket.owned_gradients.zero_()

    def gather(self, place: Place) -> None:
        """Start to collect the values that a block reads, unless they are there."""
        for bucket in self._used[place]:
            self._users[bucket] += 1
            if self._users[bucket] == 1:
                self._collect(bucket)

    def ready(self, place: Place) -> None:
        """Return when the values that a block reads are there."""
        for bucket in self._used[place]:
            handle = self._gathering.pop(bucket, None)
            if handle is not None:
                with bucket.values.unseen():
                    handle.wait()

    def release(self, place: Place) -> None:
        """Give the values back that no block reads now."""
        for bucket in self._used[place]:
            self._users[bucket] -= 1
            if self._users[bucket] == 0:
                bucket.values.give_back()

    def reduce(self, place: Place) -> None:
        """Start the sums of one block's gradients; from stage 2 on those of the block before are completed first."""
        for bucket in self._own[place]:
            if bucket.slots:
                gradients = bucket.gradients.hand_over()
                self._sum_over_model(bucket, gradients)
                self._sum_over_data(bucket, gradients)

    def finish(self) -> None:
        """Return when all sums that were started are in place, those of tied copies too.

        Copies are summed last: a rank that waited for another one before its own work is done could wait for ever.
        """
        while self._running:
            self._complete(self._running.popleft())
        for bucket in self._buckets:
            if bucket.zero_stage >= 2 and bucket.slots:
                collectives.all_reduce(bucket.owned_gradients, self._replicas)
        for bucket, axis in self._copies:
            collectives.all_reduce(bucket.owned_gradients, axis)

    def publish(self) -> None:
        """Give updated values to all ranks that keep them: each rank has changed what it owns, and rounded it."""
        handles = [
            (bucket, collectives.all_gather_in_place_async(bucket.values.tensor, self._shard))
            for bucket in self._buckets
            if bucket.slots and bucket.zero_stage < 3
        ]
        for _, handle in handles:
            handle.wait()

    def _collect(self, bucket: Bucket) -> None:
        bucket.values.take()
        with bucket.values.unseen():
            bucket.values.tensor[bucket.span] = bucket.shard
            self._gathering[bucket] = collectives.all_gather_in_place_async(bucket.values.tensor, self._shard)

    def _sum_over_model(self, bucket: Bucket, gradients: Tensor) -> None:
        for name, span in bucket.partial_ranges().items():
            collectives.all_reduce(gradients[span], self._axes[name])
        for slot in bucket.slots:
            if slot.spec.split is not None and slot.spec.split.overlaps:
                self._sum_shared_rows(slot, gradients)

    def _sum_over_data(self, bucket: Bucket, gradients: Tensor) -> None:
        if bucket.zero_stage < 2 and self._shard.size == 1:
            handle = collectives.all_reduce_async(gradients, self._replicas)
            self._running.append(_Running(bucket, gradients.nbytes, None, handle))
            return
        while bucket.zero_stage >= 2 and self._running:
            self._complete(self._running.popleft())
        share, handle = collectives.reduce_scatter_rows_async(gradients.view(self._shard.size, -1), self._shard)
        self._running.append(_Running(bucket, gradients.nbytes, share[0], handle))

    def _complete(self, running: _Running) -> None:
        running.handle.wait()
        bucket = running.bucket
        if running.share is None:
            return
        if bucket.zero_stage < 2:
            bucket.owned_gradients.copy_(running.share)
            collectives.all_reduce(bucket.owned_gradients, self._replicas)
        else:
            bucket.owned_gradients.add_(running.share)

    def _sum_shared_rows(self, slot: Slot, gradients: Tensor) -> None:
        """Sum the gradient of rows that several ranks hold (a key head read by the query heads of two ranks)."""
        assert slot.spec.split is not None
        axis = self._axes[slot.spec.split.axis]
        local = slot.view(gradients)
        part = slot.spec.local_slices({axis.name: axis.rank})
        whole = torch.zeros(slot.spec.shape, dtype=local.dtype, device=local.device)
        whole[part] = local
        local.copy_(collectives.all_reduce(whole, axis)[part])
