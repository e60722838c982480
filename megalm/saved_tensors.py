"""Hooks of saved tensors within one another: torch asks the innermost only, which hands on to those around it here.

And what names a storage, which several saved tensors may share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeptTensor:
    """A tensor as hooks keep it, and how they give it back."""

    kept: Any
    again: Callable[[Any], Tensor]

    def tensor(self) -> Tensor:
        """Return it."""
        return self.again(self.kept)


@dataclass(frozen=True)
class Around:
    """The hooks within which something is computed. Who keeps a tensor by hooks of its own keeps it by these."""

    pack: Callable[[Tensor], Any]
    unpack: Callable[[Any], Tensor]

    @staticmethod
    def here() -> "Around":
        """Return those that stand where this is called; without any a tensor is kept as it is."""
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
        return Around(*hooks) if hooks else Around(lambda tensor: tensor, lambda tensor: tensor)

    def keep(self, tensor: Tensor) -> KeptTensor:
        """Keep a tensor."""
        return KeptTensor(self.pack(tensor), self.unpack)


def storage_id(tensor: Tensor) -> int:
    """Return what names a tensor's storage as long as it lives, also one whose memory comes and goes."""
    found: int = tensor.untyped_storage()._cdata
    return found
