"""Counts the bytes of the storages that are alive, whoever holds them."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorages(TorchDispatchMode):
    """Sees every storage that an operator makes in its context, and asks later which of them are still there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [] if func is torch.ops.aten.lift_fresh.default else tree_leaves((args, kwargs))
        known = {id_of(tensor) for tensor in given if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id_of(tensor) not in known | self._seen.keys():
                storage = tensor.untyped_storage()
                self._seen[id_of(tensor)] = StorageWeakRef(storage), storage.nbytes()
        return result

    def bytes_beside(self, *others: Tensor) -> int:
        """Return the bytes that are alive, those of ``others`` left out."""
        self._seen = {place: entry for place, entry in self._seen.items() if not entry[0].expired()}
        left_out = {id_of(tensor) for tensor in others}
        return sum(size for place, (_, size) in self._seen.items() if place not in left_out)


def id_of(tensor: Tensor) -> int:
    """Return what names a storage as long as anybody refers to it, weakly or not."""
    place: int = tensor.untyped_storage()._cdata
    return place
