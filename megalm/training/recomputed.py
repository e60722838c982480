"""Which parts of a model are computed again in backward, and which keep what they keep on the host."""

from collections.abc import Sequence

from torch import nn

from megalm.errors import UserError
from megalm.recompute import RecomputeConfig


def choose_recomputed(config: RecomputeConfig, blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """Tell the layers which operations they compute again, and return those that keep only their input.

    Layers are the blocks between the first and the last. The embedding has nothing to save, and the head makes its
    gradients in its forward pass: a second one would count them twice.

    Args:
        config: the section.
        blocks: all of the model, in order.

    Raises:
        UserError: nothing in the model can be computed again in this mode.
    """
    layers = blocks[1:-1]
    if config.mode == "full" and not layers:
        raise UserError(
            "recompute.mode=full has no layers to recompute: the model has no blocks() between its first and its last; "
            "add the method, or set recompute.mode=none."
        )
    choosers = [
        (number, module) for number, layer in enumerate(layers) for module in layer.modules() if _chooses(module)
    ]
    if config.mode == "selective" and not choosers:
        raise UserError(
            "recompute.mode=selective finds nothing to recompute: no module of the model's layers has an attribute "
            "recomputed that says which operations it computes again; use full or none."
        )
    for number, module in choosers:
        module.recomputed = config.operations_of(number)  # type: ignore[assignment]
    return [layer for number, layer in enumerate(layers) if config.is_full(number)]


def choose_offloaded(config: RecomputeConfig, blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the blocks that keep on the host what they keep: the layers, as in ``choose_recomputed``.

    Raises:
        UserError: the model has none.
    """
    layers = list(blocks[1:-1])
    if config.offload == "none":
        return []
    if not layers:
        raise UserError(
            f"recompute.offload={config.offload} has no layers to offload: the model has no blocks() between its first "
            "and its last; add the method, or set recompute.offload=none."
        )
    return layers


def _chooses(module: nn.Module) -> bool:
    return isinstance(getattr(module, "recomputed", None), frozenset)
