"""The updates of one step in their order, on the device, or in the host's memory with copies beside them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from megalm.host import Host
from megalm.parallel.data.bucket import Bucket


class Update(Protocol):
    """Changes what this rank owns of some buckets by their gradients."""

    buckets: Sequence[Bucket]

    def __call__(self, lr: float, step: int) -> None:
        """Make update number ``step``, from 1."""


class Updates:
    """Makes each update, and rounds its values to what the model reads.

    Args:
        updates: together they have each bucket once.
    """

    def __init__(self, updates: Sequence[Update]) -> None:
        """See the class."""
        self._updates = updates

    def __call__(self, lr: float, step: int) -> None:
        """Make update number ``step``, from 1."""
        for update in self._updates:
            _make(update, lr, step)


class OffloadedUpdates:
    """Makes the updates in the host's memory: gradients come and values go while the buckets between are updated.

    Ren et al., "ZeRO-Offload: Democratizing Billion-Scale Model Training", 2021.

    Args:
        host: the memory of the owned values.
        buckets: with gradients on the device.
        updates: of ``with_gradients_on`` the host of these buckets, in the same order.
    """

    def __init__(self, host: Host, buckets: Sequence[Bucket], updates: Sequence[Update]) -> None:
        """See the class."""
        self._host, self._updates = host, updates
        there = [bucket for update in updates for bucket in update.buckets]
        self._copies = [
            (bucket.owned_gradients, copy.owned_gradients) for bucket, copy in zip(buckets, there, strict=True)
        ]

    def __call__(self, lr: float, step: int) -> None:
        """Make update number ``step``, from 1."""
        arriving = iter([self._host.offload(gradients, copy) for gradients, copy in self._copies])
        for update in self._updates:
            for _ in update.buckets:
                next(arriving).synchronize()
            _make(update, lr, step)


def with_gradients_on(host: Host, bucket: Bucket) -> Bucket:
    """Return the bucket as an update on the host sees it: its owned gradients are a copy there."""
    gradients = bucket.owned_gradients
    return replace(bucket, owned_gradients=host.empty(len(gradients), gradients.dtype))


def _make(update: Update, lr: float, step: int) -> None:
    update(lr, step)
    for bucket in update.buckets:
        bucket.round_values()
