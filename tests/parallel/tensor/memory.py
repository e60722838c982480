"""Sees every tensor that torch makes."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargeTensors(TorchDispatchMode):
    """Counts the tensors of at least ``size`` elements that are made and alive at one time.

    Args:
        size: smaller tensors are not counted.

    Attributes:
        largest: elements of the largest tensor made.
        peak: the most that were alive at one time; views of the same memory are one.
    """

    def __init__(self, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size, self.largest, self.peak = size, 0, 0
        self._made: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, leaf.numel())
                if leaf.numel() >= self.size:
                    self._made.append(weakref.ref(leaf))
        alive = [tensor for made in self._made if (tensor := made()) is not None]
        self.peak = max(self.peak, len({tensor.untyped_storage().data_ptr() for tensor in alive}))
        return result
