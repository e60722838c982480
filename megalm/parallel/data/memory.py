"""Flat memory that can be given back between uses; the tensors that view it stay."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.grad_mode import _unsafe_preserve_version_counter


class FlatMemory:
    """A flat tensor whose memory comes and goes.

    Args:
        num_elements: its length.
        device: where it lies.
        dtype: of its elements.
        present: whether it has memory from the beginning, zeroed.
    """

    def __init__(self, num_elements: int, device: torch.device, dtype: torch.dtype, *, present: bool) -> None:
        """See the class."""
        self.tensor = torch.empty(num_elements, device=device, dtype=dtype)
        self._num_bytes = num_elements * self.tensor.element_size()
        if present:
            self.tensor.zero_()
        else:
            self.give_back()

    @property
    def is_present(self) -> bool:
        """Whether it has memory now."""
        return self.tensor.untyped_storage().nbytes() == self._num_bytes

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
