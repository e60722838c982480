"""Where the graph of one block begins: gradients are taken there, and what flows in is not kept for them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from megalm.parallel.pipeline.flow import Flow, named, unnamed

Gradients = dict[str, Tensor | None]
"""Of a flow's tensors, by name; ``None`` where nothing depends on the tensor."""


class _Entry(torch.autograd.Function):
    """Passes a tensor on; a leaf in its place would keep the tensor as long as its gradient is waited for."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, tensor: Tensor, found: Gradients, name: str) -> Tensor:
        ctx.found, ctx.name = found, name
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, None]:
        ctx.found[ctx.name] = gradients[0]
        return None, None, None, None


def entered(flow: Flow | None, found: Gradients) -> Flow | None:
    """Return what a block reads of what flows in.

    Args:
        flow: of another graph; the model's first block is given ``None``.
        found: where the gradients of its tensors will be; now it gets their names.
    """
    return None if flow is None else unnamed(_entered(named(flow), found))


def _entered(tensors: Mapping[str, Tensor], found: Gradients) -> dict[str, Tensor]:
    begin = torch.empty(0, requires_grad=True)
    entry = {}
    for name, tensor in tensors.items():
        found[name] = None
        entry[name] = tensor.detach()
        if tensor.requires_grad:
            entry[name] = _Entry.apply(begin, entry[name], found, name)  # type: ignore[no-untyped-call]
    return entry
