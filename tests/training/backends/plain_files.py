"""A stand-in for DeepSpeed's compiled reader and writer of files, which takes minutes to compile and needs libaio."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class PlainFiles:
    """What DeepSpeed asks of its ``aio_handle``: everything is done when it is asked for."""

    def __init__(self, **_: Any) -> None:
        self._pinned: dict[int, Tensor] = {}
        self._done = 0

    def new_cpu_locked_tensor(self, num_elements: int, example: Tensor) -> Tensor:
        tensor = torch.empty(num_elements, dtype=example.dtype)
        self._pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def free_cpu_locked_tensor(self, tensor: Tensor) -> bool:
        return self._pinned.pop(tensor.untyped_storage().data_ptr(), None) is not None

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def async_pwrite(self, tensor: Tensor, path: str, offset: int) -> int:
        assert self.is_pinned(tensor)
        assert offset == 0
        Path(path).write_bytes(tensor.numpy().tobytes())
        self._done += 1
        return 0

    def async_pread(self, tensor: Tensor, path: str, offset: int) -> int:
        assert self.is_pinned(tensor)
        assert offset == 0
        tensor.copy_(torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=tensor.dtype)[: tensor.numel()])
        self._done += 1
        return 0

    def wait(self) -> int:
        done, self._done = self._done, 0
        return done


class PlainBuilder:
    """What DeepSpeed asks of its ``AsyncIOBuilder``."""

    aio_handle = PlainFiles

    def is_compatible(self, verbose: bool = False) -> bool:
        return True

    def load(self, verbose: bool = False) -> "PlainBuilder":
        return self
