"""A span of blocks and what it keeps between the forward and the backward of a micro-batch."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from megalm.batch import MicroBatch
from megalm.parallel.pipeline.flow import Flow, mapped, named
from megalm.weight_half import WeightHalf, Work

Gradients = dict[str, Tensor | None]
"""Of a flow's tensors, by name; ``None`` where nothing depends on the tensor."""


Edges = Mapping[str, GradientEdge]
"""Where a block's graph ends, by the names of its output's tensors."""


@dataclass(frozen=True)
class _Kept:
    """One block's forward of one micro-batch: its own graph, there or to be built, whose output is needed no more."""

    entry: Flow | None
    graph: Callable[[], Edges]


class Stage:
    """Runs its blocks forward and backward, one block at a time, so that each block's gradients are done early.

    Args:
        blocks: called as ``block(flow, microbatch)`` in order; the model's first is given ``None``, its last returns
            the micro-batch's share of the loss.
        weight_half: where the blocks' layers leave the weight products of input halves.
        recomputed: those of the blocks that keep only what flows in. Their graph is built in the backward, by their
            ``again`` if they have one: a forward that may leave out what only its result needs. Never the model's
            last block, which makes gradients in its forward.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], weight_half: WeightHalf, recomputed: Collection[nn.Module] = ()
    ) -> None:
        """See the class."""
        self.blocks = blocks
        self._weight_half = weight_half
        self._recomputed = frozenset(recomputed)
        self._kept: dict[int, list[_Kept]] = {}
        self._flows: dict[int, Flow | None] = {}
        self._gradients: dict[int, Gradients] = {}
        self._products: dict[int, list[list[Work]]] = {}

    def forward(self, number: int, flow: Flow | None, microbatch: MicroBatch, block: int | None = None) -> Flow | None:
        """Run micro-batch ``number`` through all blocks, or only through ``block``, which is its next.

        Args:
            number: which micro-batch.
            flow: what flows in, with the first call for a micro-batch; the model's first block is given ``None``.
            microbatch: its tokens.
            block: run only this block.

        Returns:
            What flows on when the last block is done, ``None`` before.
        """
        if not block:
            self._flows[number] = flow
            self._kept[number] = []
        for each in self.blocks if block is None else [self.blocks[block]]:
            self._flows[number] = self._forward(each, number, self._flows[number], microbatch)
        if block is not None and block + 1 < len(self.blocks):
            return None
        if not torch.is_grad_enabled():
            del self._kept[number]
        return self._flows.pop(number)

    def _forward(self, block: nn.Module, number: int, flow: Flow | None, microbatch: MicroBatch) -> Flow:
        entry = None if flow is None else mapped(_leaf, flow)
        if not torch.is_grad_enabled():
            out: Flow = block(entry, microbatch)
        elif block in self._recomputed:
            with torch.no_grad():
                out = _as_learned(block(entry, microbatch), entry, block)
            again = getattr(block, "again", block)
            self._kept[number].append(_Kept(entry, lambda: _edges(again(entry, microbatch))))
        else:
            out = block(entry, microbatch)
            edges = _edges(out)
            self._kept[number].append(_Kept(entry, lambda: edges))
        return out

    def backward(self, number: int, gradients: Gradients | None = None, block: int | None = None) -> Gradients:
        """Run the backward of micro-batch ``number``: of its next block, which must be ``block``, or of all left.

        Args:
            number: which micro-batch.
            gradients: of what flowed on; only with the first call for a micro-batch. The loss needs none.
            block: cut the backward after this block.

        Returns:
            The gradients of what flowed in, so far.
        """
        kept = self._kept[number]
        if gradients is not None:
            self._gradients[number] = gradients
        if block is not None and block != len(kept) - 1:
            raise ValueError(f"block {block} comes before block {len(kept) - 1} in the backward")
        while len(kept) > (block or 0):
            self._gradients[number] = _backward(kept.pop(), self._gradients.get(number))
        found = self._gradients[number]
        if not kept:
            del self._kept[number], self._gradients[number]
        return found

    def backward_input(self, number: int, gradients: Gradients | None = None, block: int | None = None) -> Gradients:
        """Run the input half of the backward: all but the products that make weight gradients; see ``backward``."""
        first = len(self._kept[number]) - 1
        if first == len(self.blocks) - 1:
            self._products[number] = []
        found: Gradients = {}
        for each in range(first, -1, -1) if block is None else [block]:
            with self._weight_half.put_off() as work:
                found = self.backward(number, gradients if each == first else None, each)
            self._products[number].insert(0, work)
        return found

    @torch.no_grad()
    def backward_weight(self, number: int, block: int | None = None) -> None:
        """Make the weight gradients that the input half has put off: of the next block, ``block``, or of all left."""
        products = self._products[number]
        if block is not None and block != len(products) - 1:
            raise ValueError(f"block {block} is not the next one of the weight half")
        while len(products) > (block or 0):
            for work in products.pop():
                work()
        if not products:
            del self._products[number]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _edges(out: Flow) -> Edges:
    return {name: get_gradient_edge(tensor) for name, tensor in named(out).items() if tensor.requires_grad}


def _as_learned(out: Flow, entry: Flow | None, block: nn.Module) -> Flow:
    """Return what flows out of a block without a graph as what a gradient may come back for."""
    sources = [*({} if entry is None else named(entry)).values(), *block.parameters()]
    learns = any(source.requires_grad for source in sources)
    return mapped(lambda tensor: tensor.detach().requires_grad_(learns and tensor.is_floating_point()), out)


def _backward(kept: _Kept, gradients: Gradients | None) -> Gradients:
    """Run one block's backward and return the gradients of its entry."""
    ends = kept.graph()
    if gradients is None:  # the loss
        edges = list(ends.values())
        given: list[Tensor | None] = [None] * len(edges)
    else:
        names = [name for name in ends if gradients.get(name) is not None]
        edges, given = [ends[name] for name in names], [gradients[name] for name in names]
    if edges:
        torch.autograd.backward(edges, given)
    entry = {} if kept.entry is None else named(kept.entry)
    return {name: tensor.grad for name, tensor in entry.items()}
