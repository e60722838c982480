"""What autograd saves in a block goes to the host's memory between the block's forward and its backward.

Each storage travels once, however many saved tensors are views of it. It begins to leave when the block's forward is
done, beside the forward of the next one, and the device's memory is free when that is done too; if the backward comes
before, it simply stays. It begins to come back beside the backward of the block above. So at most two blocks' saved
tensors are on the device, and computing waits only for a link that is slower than it. What is on the device is kept by
the hooks around the forward, which may count it. Rhu et al., "vDNN: Virtualized Deep Neural Networks for Scalable,
Memory-Efficient Neural Network Design", 2016.
"""

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from megalm.host import Host, Transfer
from megalm.saved_tensors import Around, KeptTensor, storage_id


class Packed(Protocol):
    """A tensor that is kept, wherever its memory is."""

    def tensor(self) -> Tensor:
        """Return it; its memory is on the device now."""


class Saved:
    """What one forward of a block keeps, made within the hooks around it: all of it stays where it is."""

    def __init__(self) -> None:
        """See the class."""
        self._around = Around.here()

    @property
    def bytes_on_host(self) -> int:
        """The bytes of the host's memory that it takes now."""
        return 0

    def hooks(self) -> AbstractContextManager[object]:
        """Return the context in which autograd's saved tensors are kept here."""
        return nullcontext()

    def pack(self, tensor: Tensor) -> Packed:
        """Keep a tensor that autograd does not save."""
        return self._stays(tensor)

    def _stays(self, tensor: Tensor) -> "_Here":
        return _Here(self._around.keep(tensor.detach()), tensor._version)

    def leave(self) -> None:
        """Begin to leave the device: the forward is done."""

    def come(self) -> None:
        """Begin to come back, unless that has begun."""

    def arrive(self) -> None:
        """Let all that the device is told from now on find it there."""


class Offload:
    """Moves what some blocks save to the host and back.

    Args:
        host: where it goes.
        device: which tensors move: those that lie there.
        blocks: whose saved tensors move.
        stay: tensors whose storages never move: parameters and buffers.
    """

    def __init__(self, host: Host, device: torch.device, blocks: Collection[nn.Module], stay: Iterable[Tensor]) -> None:
        """See the class."""
        self._host, self._device = host, device
        self._blocks = frozenset(blocks)
        self._stay = frozenset(storage_id(tensor) for tensor in stay)
        self._leaving: _Offloaded | None = None

    def saved(self, block: nn.Module) -> Saved:
        """Return where a forward of ``block`` keeps what its backward needs."""
        return _Offloaded(self) if block in self._blocks else Saved()

    def moves(self, tensor: Tensor) -> bool:
        """Whether a saved tensor's storage is worth a transfer."""
        return (
            tensor.device.type == self._device.type
            and tensor.layout is torch.strided
            and not (tensor.is_conj() or tensor.is_neg())
            and tensor.untyped_storage().nbytes() >= self._host.smallest
            and storage_id(tensor) not in self._stay
        )

    def leaves(self, saved: "_Offloaded") -> None:
        """Start to copy what a block has saved, and give back the memory of what left before it."""
        for storage in saved.storages:
            storage.leave(self._host)
        if self._leaving is not None:
            for storage in self._leaving.storages:
                storage.give_back()
        self._leaving = saved

    def comes(self, saved: "_Offloaded") -> None:
        """Start to copy it back."""
        for storage in saved.storages:
            storage.come(self._host)


class _Offloaded(Saved):
    """What one forward of a block keeps on the host."""

    def __init__(self, offload: Offload) -> None:
        super().__init__()
        self._offload = offload
        self._storages: dict[int, _Storage] = {}

    @property
    def storages(self) -> Iterable["_Storage"]:
        return self._storages.values()

    @property
    def bytes_on_host(self) -> int:
        return sum(storage.bytes_on_host for storage in self.storages)

    def hooks(self) -> AbstractContextManager[object]:
        return saved_tensors_hooks(self.pack, lambda packed: packed.tensor())

    def pack(self, tensor: Tensor) -> Packed:
        here = self._stays(tensor)
        if not self._offload.moves(tensor):
            return here
        storage = self._storages.get(storage_id(tensor))
        if storage is None:
            storage = self._storages[storage_id(tensor)] = _Storage(tensor, self._around)
        storage.saved.append(here)
        return _View(storage, tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset()))

    def leave(self) -> None:
        self._offload.leaves(self)

    def come(self) -> None:
        self._offload.comes(self)

    def arrive(self) -> None:
        for storage in self._storages.values():
            storage.arrive()
        self._storages = {}  # only who reads it holds it now


class _Storage:
    """One storage as bytes: on the device, on the host, or on the way."""

    def __init__(self, tensor: Tensor, around: Around) -> None:
        self._device, self._around = tensor.device, around
        flat = tensor.new_empty(0, dtype=torch.uint8, requires_grad=False).set_(tensor.untyped_storage())
        self._there: KeptTensor | None = around.keep(flat)
        self.saved: list[_Here] = []
        self._on_host: Tensor | None = None
        self._transfer: Transfer | None = None
        self._leaving = False

    @property
    def on_device(self) -> Tensor:
        assert self._there is not None, "a saved tensor was asked for before it was back"
        return self._there.tensor()

    @property
    def bytes_on_host(self) -> int:
        return 0 if self._on_host is None else self._on_host.nbytes

    def leave(self, host: Host) -> None:
        self._on_host = host.empty(len(self.on_device), torch.uint8)
        self._transfer = host.offload(self.on_device, self._on_host)
        self._leaving = True

    def give_back(self) -> None:
        if self._leaving:
            assert self._transfer is not None
            self._transfer.wait()
            self._end_leaving()
            self._there = self._transfer = None

    def _end_leaving(self) -> None:
        for saved in self.saved:
            saved.tensor()
        self.saved.clear()
        self._leaving = False

    def come(self, host: Host) -> None:
        if self._leaving:
            self._end_leaving()
        if self._there is None:
            assert self._on_host is not None
            flat = torch.empty(len(self._on_host), dtype=torch.uint8, device=self._device)
            self._there = self._around.keep(flat)
            self._transfer = host.reload(self._on_host, flat)

    def arrive(self) -> None:
        if self._transfer is not None:
            self._transfer.wait()
        self._transfer = self._on_host = None


@dataclass(frozen=True)
class _Here:
    """A tensor that stays, and its version: where there are hooks, autograd does not look whether it has changed."""

    here: KeptTensor
    version: int

    def tensor(self) -> Tensor:
        found = self.here.tensor()
        if found._version != self.version:
            raise RuntimeError(
                f"a saved tensor of shape {list(found.shape)} has been modified by an inplace operation before the "
                "backward that needs it; use the operation that makes a new one."
            )
        return found


@dataclass(frozen=True)
class _View:
    """A tensor by its place in a storage."""

    storage: _Storage
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor:
        flat = self.storage.on_device
        whole = torch.empty(0, dtype=self.dtype, device=flat.device)
        return whole.set_(flat.untyped_storage(), self.offset, self.shape, self.stride)
