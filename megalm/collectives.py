"""Every collective of a run passes here: the only place that calls torch.distributed to communicate.

Each function takes the ``Axis`` it works over, does nothing on an axis of one rank, and records the call in the axis's
ledger when there is one. Where a rank waits here is marked, for those who look at it from outside; when the wait fails
because another rank is gone or silent, it raises ``LostRank``.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from megalm.errors import LostRank
from megalm.ledger import Entry, Kind
from megalm.mesh import Axis
from megalm.watch.marker import Begun
from megalm.watch.position import compact

T = TypeVar("T")

Reduction = Literal["sum", "max", "min"]
_REDUCTIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


_SUM_TAG, _GATHER_TAG = 2**30, 2**30 + 1
"""Of messages that make up a collective; the pipeline's are counted from 0."""


class Handle(Protocol):
    """A collective under way."""

    def wait(self) -> object:
        """Return when the result is in place."""


class Transfer(Handle, Protocol):
    """A send or a receive under way."""

    def is_completed(self) -> bool:
        """Whether ``wait`` would return at once."""


class Done:
    """The handle of a collective that had nothing to do."""

    def wait(self) -> None:
        """Return at once."""


class _Call:
    """One collective as its caller makes it: recorded, counted, waited for.

    Args:
        kind: which collective.
        axis: over which axis.
        tensor: of which the payload is a multiple.
        scalar: see ``Entry``.
        whole: how many such tensors make the payload.
        peer: of a send or a receive: the position of the other rank.
    """

    __slots__ = ("_axis", "_begun", "_kind", "_peer")

    def __init__(
        self, kind: Kind, axis: Axis, tensor: Tensor | None, scalar: bool, whole: int = 1, peer: int | None = None
    ) -> None:
        self._kind, self._axis, self._peer = kind, axis, peer
        self._begun: Begun | None = None
        ledger, channel = axis.ledger, axis.channel
        if (ledger is None or not ledger.recording) and channel is None:
            return
        payload = 0 if tensor is None else tensor.numel() * tensor.element_size() * whole
        if ledger is not None:
            dtype = "none" if tensor is None else str(tensor.dtype).removeprefix("torch.")
            ledger.record(Entry(kind, axis.name, dtype, payload, scalar, axis.size))
        if channel is not None:
            self._begun = self._count(payload)

    def _count(self, payload: int) -> Begun | None:
        channel, ranks = self._axis.channel, self._axis.ranks
        assert channel is not None
        if self._peer is None:
            return channel.begin(self._kind, payload)
        own, peer = ranks[self._axis.rank], ranks[self._peer]
        return channel.message(*((own, peer) if self._kind == "send" else (peer, own)), payload)

    def begin(self, begin: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Start it in torch."""
        try:
            return begin(*args, **kwargs)
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise self._lost(error) from error
            raise

    def wait(self, wait: Callable[[], object]) -> None:
        """Wait for it."""
        if self._begun is not None:
            self._begun.wait()
        self.begin(wait)
        if self._begun is not None:
            self._begun.done()

    def _lost(self, error: RuntimeError) -> LostRank:
        axis, reason = self._axis, " ".join(str(error).split())[:200]
        others = f"ranks {compact(axis.ranks)}" if self._peer is None else f"rank {axis.ranks[self._peer]}"
        return LostRank(
            f"rank {axis.ranks[axis.rank]} waited in {self._kind} over {axis.name} for {others}, which is gone or "
            f"silent ({reason})."
        )


class _Running:
    """The handle of torch's own work."""

    def __init__(self, call: _Call, work: Transfer) -> None:
        self._call, self._work = call, work

    def wait(self) -> None:
        self._call.wait(self._work.wait)

    def is_completed(self) -> bool:
        return self._work.is_completed()


class _Then:
    """The handle of several transfers, and of what is done once with what they brought; it keeps their memory."""

    def __init__(
        self, call: _Call, works: list[Handle], memory: object, finish: Callable[[], None] = lambda: None
    ) -> None:
        self._call, self._works, self._memory, self._finish = call, works, memory, finish

    def wait(self) -> None:
        if self._works:
            self._call.wait(self._wait)
            self._finish()

    def _wait(self) -> None:
        while self._works:
            self._works.pop().wait()


def all_reduce_async(tensor: Tensor, axis: Axis, op: Reduction = "sum", *, scalar: bool = False) -> Handle:
    """Start an in-place reduction of ``tensor`` over the axis; it is valid after ``wait``."""
    if axis.size == 1:
        return Done()
    call = _Call("all_reduce", axis, tensor, scalar)
    return _Running(call, call.begin(dist.all_reduce, tensor, _REDUCTIONS[op], group=axis.group, async_op=True))


def all_reduce(tensor: Tensor, axis: Axis, op: Reduction = "sum", *, scalar: bool = False) -> Tensor:
    """Reduce ``tensor`` in place over the axis and return it. ``scalar`` marks bookkeeping numbers in the ledger."""
    all_reduce_async(tensor, axis, op, scalar=scalar).wait()
    return tensor


def all_gather_rows_async(tensor: Tensor, axis: Axis) -> tuple[Tensor, Handle]:
    """Start to collect every rank's rows: [n, ...] -> [size * n, ...]; each rank gives as many."""
    if axis.size == 1:
        return tensor, Done()
    whole = tensor.new_empty(axis.size * tensor.shape[0], *tensor.shape[1:])
    _parts(whole, axis)[axis.rank] = tensor
    return whole, all_gather_in_place_async(whole, axis)


def all_gather_rows(tensor: Tensor, axis: Axis) -> Tensor:
    """Collect every rank's rows: [n, ...] -> [size * n, ...]."""
    whole, work = all_gather_rows_async(tensor, axis)
    work.wait()
    return whole


def reduce_scatter_rows_async(tensor: Tensor, axis: Axis) -> tuple[Tensor, Handle]:
    """Start to sum over the axis, each rank keeping its share of the rows: [size * n, ...] -> [n, ...].

    On CPU each rank adds up in the order of the ranks, so that the sum of an element does not depend on where it lies.
    """
    if axis.size == 1:
        return tensor, Done()
    call = _Call("reduce_scatter", axis, tensor, False)
    tensor = tensor.contiguous()
    parts = _parts(tensor, axis)
    share = torch.empty_like(parts[0])
    if tensor.is_cuda:
        work = call.begin(dist.reduce_scatter_single, share, tensor, group=axis.group, async_op=True)
        return share, _Running(call, work)
    received = [parts[rank] if rank == axis.rank else torch.empty_like(share) for rank in range(axis.size)]
    works = call.begin(_exchange, axis, parts, received, _SUM_TAG)

    def add_up() -> None:
        torch.add(received[0], received[1], out=share)
        for part in received[2:]:
            share.add_(part)

    return share, _Then(call, works, (parts, received), add_up)


def reduce_scatter_rows(tensor: Tensor, axis: Axis) -> Tensor:
    """Sum over the axis, each rank keeping its share of the rows: [size * n, ...] -> [n, ...]."""
    share, work = reduce_scatter_rows_async(tensor, axis)
    work.wait()
    return share


def all_gather_in_place_async(whole: Tensor, axis: Axis) -> Handle:
    """Start to fill ``whole`` [size * n, ...], of which each rank has its own rows in place."""
    if axis.size == 1:
        return Done()
    call = _Call("all_gather", axis, whole, False)
    parts = _parts(whole, axis)
    if whole.is_cuda:
        work = call.begin(dist.all_gather_single, whole, parts[axis.rank], group=axis.group, async_op=True)
        return _Running(call, work)
    works = call.begin(_exchange, axis, [parts[axis.rank]] * axis.size, list(parts), _GATHER_TAG)
    return _Then(call, works, whole)


def _parts(whole: Tensor, axis: Axis) -> Tensor:
    """Return [size * n, ...] as [size, n, ...]."""
    return whole.view(axis.size, whole.shape[0] // axis.size, *whole.shape[1:])


def _exchange(axis: Axis, given: Sequence[Tensor] | Tensor, taken: Sequence[Tensor], tag: int) -> list[Handle]:
    """Send to each other rank what is given for it, and take what it sends: a third of the time of gloo's own rings."""
    works: list[Handle | None] = []
    for step in range(1, axis.size):
        source, to = (axis.rank - step) % axis.size, (axis.rank + step) % axis.size
        works.append(dist.irecv(taken[source], axis.ranks[source], group=axis.group, tag=tag))
        works.append(dist.isend(given[to], axis.ranks[to], group=axis.group, tag=tag))
    return [work for work in works if work is not None]


def broadcast(tensor: Tensor, axis: Axis, source: int = 0, *, scalar: bool = False) -> Tensor:
    """Overwrite ``tensor`` in place with that of the rank at position ``source``, and return it."""
    if axis.size == 1:
        return tensor
    call = _Call("broadcast", axis, tensor, scalar)
    call.wait(partial(dist.broadcast, tensor, axis.ranks[source], group=axis.group))
    return tensor


def send_async(tensor: Tensor, axis: Axis, to: int, tag: int, *, scalar: bool = False) -> Transfer:
    """Start to send ``tensor`` to the rank at position ``to``; its values must not change until it is complete.

    nccl matches sends and receives of two ranks by their order, gloo by ``tag``: let it count them.
    """
    call = _Call("send", axis, tensor, scalar, peer=to)
    work = call.begin(dist.isend, tensor.contiguous(), axis.ranks[to], group=axis.group, tag=tag)
    assert work is not None
    return _Running(call, work)


def receive_async(tensor: Tensor, axis: Axis, source: int, tag: int, *, scalar: bool = False) -> Transfer:
    """Start to overwrite ``tensor`` with what the rank at position ``source`` sends; see ``send_async``."""
    call = _Call("receive", axis, tensor, scalar, peer=source)
    work = call.begin(dist.irecv, tensor, axis.ranks[source], group=axis.group, tag=tag)
    assert work is not None
    return _Running(call, work)


def barrier(axis: Axis) -> None:
    """Wait until every rank of the axis has come here."""
    if axis.size == 1:
        return
    _Call("barrier", axis, None, scalar=True).wait(partial(dist.barrier, group=axis.group))


def gather_objects(value: Any, axis: Axis, device: torch.device | str = "cpu") -> list[Any]:
    """Return every rank's JSON-able ``value``, by position. They travel as JSON text, never as pickles."""
    if axis.size == 1:
        return [value]
    text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=device)
    length = all_reduce(torch.tensor([len(text)], device=device), axis, "max", scalar=True)
    padded = torch.full((1, int(length.item())), ord(" "), dtype=torch.uint8, device=device)
    padded[0, : len(text)] = text
    call = _Call("all_gather", axis, padded, True, whole=axis.size)
    whole = padded.new_empty(axis.size, padded.shape[1])
    call.wait(partial(dist.all_gather_single, whole, padded, group=axis.group))
    return [json.loads(bytes(row.tolist())) for row in whole.cpu()]
