"""What flows from block to block and from stage to stage: one tensor, or a small named set of them."""

from collections.abc import Callable, Mapping

from torch import Tensor

Flow = Tensor | Mapping[str, Tensor]
"""A block's output: rows, or for example ``{"encoder": ..., "decoder": ...}``; some may have no gradient."""
ALONE = ""
"""The name of a tensor that flows alone."""


def named(flow: Flow) -> dict[str, Tensor]:
    """Return the tensors of a flow by name."""
    return {ALONE: flow} if isinstance(flow, Tensor) else dict(flow)


def unnamed(tensors: Mapping[str, Tensor]) -> Flow:
    """Return the flow that ``named`` took apart."""
    return tensors.get(ALONE, tensors)


def mapped(function: Callable[[Tensor], Tensor], flow: Flow) -> Flow:
    """Return the flow with each tensor replaced."""
    return unnamed({name: function(tensor) for name, tensor in named(flow).items()})
