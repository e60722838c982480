"""A span of blocks and the activations it keeps between forward and backward."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch


class Stage:
    """Runs its blocks forward and backward, one block at a time, so that each block's gradients are done early.

    Args:
        blocks: called as ``block(x, microbatch)`` in order; the first is given ``None``, the last returns the
            micro-batch's share of the loss.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        """See the class."""
        self.blocks = blocks
        self._borders: dict[int, list[tuple[Tensor | None, Tensor]]] = {}
        self._gradients: dict[int, Tensor | None] = {}

    def forward(self, number: int, microbatch: MicroBatch) -> Tensor:
        """Run micro-batch ``number`` through all blocks and return its share of the loss."""
        borders: list[tuple[Tensor | None, Tensor]] = []
        x: Tensor | None = None
        for block in self.blocks:
            entry = None if x is None else x.detach().requires_grad_(x.requires_grad)
            x = block(entry, microbatch)
            borders.append((entry, x))
        assert x is not None
        if torch.is_grad_enabled():
            self._borders[number] = borders
        return x.detach()

    def backward(self, number: int, block: int | None) -> None:
        """Run the backward of micro-batch ``number``: of its next block, which must be ``block``, or of all left."""
        borders = self._borders[number]
        if block is not None and block != len(borders) - 1:
            raise ValueError(f"block {block} comes before block {len(borders) - 1} in the backward")
        while len(borders) > (block or 0):
            entry, x = borders.pop()
            if x.requires_grad:
                torch.autograd.backward(x, self._gradients.get(number))
            self._gradients[number] = entry.grad if entry is not None else None
        if not borders:
            del self._borders[number], self._gradients[number]
