"""Flat memory that comes and goes: that of values, whose views stay, and that of gradients, which are handed over."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter


class ValueMemory:
    """A flat tensor whose memory comes and goes; the tensors that view it stay.

    Args:
        num_elements: its length.
        device: where it lies.
        dtype: of its elements.

    Attributes:
        tensor: the flat tensor, at first with memory of any content. Views of it are made while it has memory.
    """

    def __init__(self, num_elements: int, device: torch.device, dtype: torch.dtype) -> None:
        """See the class."""
        self.tensor = torch.empty(num_elements, device=device, dtype=dtype)
        self._num_bytes = num_elements * self.tensor.element_size()

    @property
    def num_bytes(self) -> int:
        """The bytes it takes now."""
        return self.tensor.untyped_storage().nbytes()

    def take(self) -> None:
        """Take memory, of any content."""
        self.tensor.untyped_storage().resize_(self._num_bytes)

    def give_back(self) -> None:
        """Give the memory back; what it held is lost."""
        self.tensor.untyped_storage().resize_(0)

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Within this context autograd does not count changes: what it saved of the values will be there again."""
        with _unsafe_preserve_version_counter(self.tensor):
            yield


class GradientMemory:
    """Where the gradients of a bucket are summed: taken at the first use, and handed over to be reduced.

    What is handed over stays as it is while the next micro-batch's gradients are summed in new memory.

    Args:
        num_elements: of the flat tensor.
        device: where it lies.
        dtype: of its elements.
        kept: whether it stays when it is handed over.
    """

    def __init__(self, num_elements: int, device: torch.device, dtype: torch.dtype, *, kept: bool) -> None:
        """See the class."""
        self._num_elements, self._device, self._dtype, self._kept = num_elements, device, dtype, kept
        self._tensor: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The flat tensor, zero at first."""
        if self._tensor is None:
            self._tensor = torch.zeros(self._num_elements, device=self._device, dtype=self._dtype)
        return self._tensor

    @property
    def num_bytes(self) -> int:
        """The bytes it takes now."""
        return 0 if self._tensor is None else self._tensor.nbytes

    def hand_over(self) -> Tensor:
        """Return the tensor; unless it is kept, its memory is the caller's now."""
        tensor = self.tensor
        if not self._kept:
            self._tensor = None
        return tensor
