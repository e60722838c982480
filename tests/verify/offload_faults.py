"""Faults of offload, each planted by replacing one thing in a run that has a host beside it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from megalm.parallel.data.bucket import Bucket
from megalm.parallel.pipeline import offload
from tests.pretend_host import Copy, pretended


@contextmanager
def _gradients_not_awaited() -> Iterator[None]:
    """The host updates before the gradients have arrived."""
    with pretended(), mock.patch.object(Copy, "synchronize", return_value=None):
        yield


@contextmanager
def _values_not_copied_back() -> Iterator[None]:
    """The device goes on with the values that it had."""
    original = Bucket.round_values

    def round_values(self: Bucket) -> None:
        if not self.owned_gradients.any():  # at the beginning of the run
            original(self)

    with pretended(), mock.patch.object(Bucket, "round_values", round_values):
        yield


@contextmanager
def _strides_lost() -> Iterator[None]:
    """A transposed view comes back as if it were not transposed."""
    original = offload._View.tensor

    def tensor(self: offload._View) -> Tensor:
        found = original(self)
        return found.as_strided(found.shape, torch.empty(found.shape, device="meta").stride())

    with pretended(), mock.patch.object(offload._View, "tensor", tensor):
        yield


@contextmanager
def _read_before_they_are_back() -> Iterator[None]:
    """A backward begins before what it reads is back."""
    original = offload._Storage.arrive

    def arrive(self: offload._Storage) -> None:
        if self._on_host is None or self._leaving:
            original(self)

    with pretended(), mock.patch.object(offload._Storage, "arrive", arrive):
        yield


OFFLOAD_FAULTS: Mapping[str, Callable[[], Any]] = {
    "offloaded gradients not awaited": _gradients_not_awaited,
    "offloaded values not copied back": _values_not_copied_back,
    "offloaded views lose their strides": _strides_lost,
    "offloaded read before it is back": _read_before_they_are_back,
}
