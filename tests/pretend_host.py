"""Ordinary memory in the part of the host's, so that what offload does is seen on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from megalm.training import build


class PretendHost:
    """Memory that is counted apart; a copy is made when it is waited for, and until then it is wrong.

    Args:
        smallest: bytes of the smallest saved activation that moves.

    Attributes:
        moved: the bytes that have left the device, and those that have come back.
        synchronized: how often somebody waited on the host itself, who then may read.
    """

    def __init__(self, smallest: int = 1) -> None:
        self.smallest = smallest
        self.moved = [0, 0]
        self.synchronized = 0
        self._given: list[tuple[StorageWeakRef, int]] = []

    def empty(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        memory = torch.empty(num_elements, dtype=dtype)
        self._given.append((StorageWeakRef(memory.untyped_storage()), memory.nbytes))
        return memory

    def offload(self, source: Tensor, into: Tensor) -> "Copy":
        self.moved[0] += source.nbytes
        return Copy(self, source, into)

    def reload(self, source: Tensor, into: Tensor) -> "Copy":
        self.moved[1] += source.nbytes
        return Copy(self, source, into)

    @property
    def num_bytes(self) -> int:
        """The bytes of its memory that is alive."""
        return sum(size for memory, size in self._given if not memory.expired())


@dataclass
class Copy:
    """A copy as late as it may be."""

    host: PretendHost
    source: Tensor | None
    into: Tensor | None

    def __post_init__(self) -> None:
        assert self.into is not None
        self.into.view(torch.uint8).fill_(63)  # finite in every floating dtype

    def wait(self) -> None:
        if self.source is not None and self.into is not None:
            self.into.copy_(self.source)
        self.source = self.into = None

    def synchronize(self) -> None:
        self.host.synchronized += 1
        self.wait()


@contextmanager
def pretended(smallest: int = 1) -> Iterator[PretendHost]:
    """Within this context runs on a CPU have such a host beside them."""
    host = PretendHost(smallest)
    with mock.patch.object(build, "host_of", return_value=host):
        yield host
