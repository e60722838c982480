"""The host's memory beside a device's: where offloaded tensors go, and how they come back.

Copies run beside what the device computes. Nothing is promised about their values before they are waited for.
"""

from typing import Protocol

import torch
from torch import Tensor

from megalm.recompute import SMALLEST_OFFLOADED


class Transfer(Protocol):
    """A copy between host and device under way; whoever started it keeps both tensors until it is waited for."""

    def wait(self) -> None:
        """Let all that the device is told from now on come after the copy; the host does not wait."""

    def synchronize(self) -> None:
        """Return when the copy is complete."""


class Host(Protocol):
    """The memory of the host.

    Attributes:
        smallest: bytes of the smallest saved activation that is worth a transfer.
    """

    smallest: int

    def empty(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """Return flat host memory of any content, from which and into which copies run beside the device's work."""

    def offload(self, source: Tensor, into: Tensor) -> Transfer:
        """Start to copy what the device has been told to compute into host memory."""

    def reload(self, source: Tensor, into: Tensor) -> Transfer:
        """Start to copy host memory back; the device has been told before all that it does with ``into``."""


class PinnedHost:
    """Page-locked memory, and a stream of copies in each direction.

    torch takes page-locked memory in powers of two and keeps it for the next request.
    """

    smallest = SMALLEST_OFFLOADED

    def __init__(self) -> None:
        """Make the streams on the current device."""
        self._leaving, self._coming = torch.cuda.Stream(), torch.cuda.Stream()

    def empty(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """See ``Host``."""
        return torch.empty(num_elements, dtype=dtype, pin_memory=True)

    def offload(self, source: Tensor, into: Tensor) -> Transfer:
        """See ``Host``."""
        return _Copy(self._leaving, source, into)

    def reload(self, source: Tensor, into: Tensor) -> Transfer:
        """See ``Host``."""
        return _Copy(self._coming, source, into)


class _Copy:
    """A copy on a stream of its own, after all that the device was told so far."""

    def __init__(self, stream: torch.cuda.Stream, source: Tensor, into: Tensor) -> None:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            into.copy_(source, non_blocking=True)
        self._done = stream.record_event()

    def wait(self) -> None:
        torch.cuda.current_stream().wait_event(self._done)

    def synchronize(self) -> None:
        self._done.synchronize()


def host_of(device: torch.device) -> Host | None:
    """Return the host's memory as a device reaches it; ``None`` where the two are one."""
    return None if device.type == "cpu" else PinnedHost()
