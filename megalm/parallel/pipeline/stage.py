"""A span of blocks and what it keeps between the forward and the backward of a micro-batch."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from megalm.batch import MicroBatch
from megalm.parallel.pipeline.entry import Gradients, entered
from megalm.parallel.pipeline.flow import Flow, mapped, named, unnamed
from megalm.parallel.pipeline.offload import Offload, Saved
from megalm.weight_half import WeightHalf, Work

Edges = Mapping[str, GradientEdge]
"""Where a block's graph ends, by the names of its output's tensors."""


@dataclass(frozen=True)
class _Kept:
    """One block's forward of one micro-batch: its own graph, there or to be built, whose output is needed no more.

    Args:
        saved: what the graph needs.
        gradients: where those of what flowed in will be.
        graph: where the graph ends.
    """

    saved: Saved
    gradients: Gradients
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
        offload: moves to the host what its blocks keep, graphs or what flows in; ``None`` moves nothing.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        weight_half: WeightHalf,
        recomputed: Collection[nn.Module] = (),
        offload: Offload | None = None,
    ) -> None:
        """See the class."""
        self.blocks = blocks
        self._offload = offload
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
        if not torch.is_grad_enabled():
            out: Flow = block(None if flow is None else mapped(Tensor.detach, flow), microbatch)
            return out
        saved = Saved() if self._offload is None else self._offload.saved(block)
        gradients: Gradients = {}
        if block in self._recomputed:
            entry = _packed(flow, saved)
            with torch.no_grad():
                out = _as_learned(block(entry(), microbatch), flow, block)
            again = getattr(block, "again", block)
            self._kept[number].append(
                _Kept(saved, gradients, lambda: _edges(again(entered(entry(), gradients), microbatch)))
            )
        else:
            with saved.hooks():
                out = block(entered(flow, gradients), microbatch)
            edges = _edges(out)
            self._kept[number].append(_Kept(saved, gradients, lambda: edges))
        saved.leave()
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
            last = kept.pop()
            last.saved.come()
            last.saved.arrive()
            if kept:
                kept[-1].saved.come()
            self._gradients[number] = _backward(last, self._gradients.get(number))
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

    def holds(self) -> Iterator[Tensor]:
        """Yield what put-off products hold of micro-batches, which no hook sees; a tensor may come twice."""
        for products in self._products.values():
            for work in (work for of_block in products for work in of_block):
                yield from getattr(work, "holds", ())

    @property
    def bytes_on_host(self) -> int:
        """The bytes of the host's memory that offloaded micro-batches take now."""
        return sum(each.saved.bytes_on_host for kept in self._kept.values() for each in kept)

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


def _packed(flow: Flow | None, saved: Saved) -> Callable[[], Flow | None]:
    """Keep what flows in; return what gives it back."""
    if flow is None:
        return lambda: None
    kept = {name: (saved.pack(tensor.detach()), tensor.requires_grad) for name, tensor in named(flow).items()}
    return lambda: unnamed({name: packed.tensor().requires_grad_(learns) for name, (packed, learns) in kept.items()})


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
    return kept.gradients
