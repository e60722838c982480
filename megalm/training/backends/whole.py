"""The model as a foreign engine sees it: one module from a micro-batch to its share of the loss."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megalm.batch import MicroBatch
from megalm.errors import UserError
from megalm.parameters import spec_of


class Recomputed(nn.Module):
    """A block that keeps only what flows in: it runs again in the backward, from its beginning to its last saved value.

    An engine that gathers parameters wraps it from outside, so that the second run finds them gathered. No random state
    is set aside, since dropout is drawn by position. Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".

    Args:
        block: whose activations are forgotten.
    """

    def __init__(self, block: nn.Module) -> None:
        """See the class."""
        super().__init__()
        self.block = block

    def forward(self, flow: Tensor | None, batch: MicroBatch) -> Tensor:
        """Return what the block does."""
        out: Tensor = checkpoint(self.block, flow, batch, use_reentrant=False, preserve_rng_state=False)
        return out


class Whole(nn.Module):
    """All blocks one after the other.

    Args:
        blocks: the model's, in order.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        """See the class."""
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, batch: MicroBatch) -> Tensor:
        """Return the micro-batch's share of the global batch's loss."""
        flow: Tensor | None = None
        for block in self.blocks:
            flow = block(flow, batch)
        assert flow is not None
        return flow

    def apart(self) -> list[nn.Module]:
        """Return the blocks that share no parameter with another: an engine may keep each one's parameters together."""
        homes: dict[nn.Parameter, list[nn.Module]] = {}
        for block in self.blocks:
            for parameter in block.parameters():
                homes.setdefault(parameter, []).append(block)
        return [
            block
            for block in self.blocks
            if any(True for _ in block.parameters()) and all(len(homes[p]) == 1 for p in block.parameters())
        ]


def check_fit(parameters: Sequence[nn.Parameter], backend: str) -> None:
    """Refuse parameters that only our own engine knows how to learn.

    Raises:
        UserError: one is frozen, or its gradient is partial over a model axis; it is named.
    """
    for parameter in parameters:
        spec = spec_of(parameter)
        if not parameter.requires_grad:
            raise UserError(f"zero.backend={backend} learns all parameters and {spec.name} is frozen; use native.")
        if spec.partial_over or (spec.split is not None and spec.split.overlaps):
            raise UserError(
                f"zero.backend={backend} sums gradients over data ranks only and that of {spec.name} is partial over "
                "the tensor axis too; use native, or as many tensor ranks as divide the key heads."
            )
