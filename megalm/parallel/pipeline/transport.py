"""Sends and receives between the ranks of the pipeline: never blocking on a send, each receive posted early.

From one rank to another everything travels in order, first in, first out. The shape of a flow is told once for each
shape of micro-batch; after that only its tensors travel, and the receiver has the next receive from each neighbour
posted while it computes.
"""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megalm import collectives
from megalm.errors import LostRank
from megalm.mesh import Axis
from megalm.parallel.pipeline.action import Action, Kind
from megalm.parallel.pipeline.entry import Gradients
from megalm.parallel.pipeline.flow import Flow, named

HEADER_BYTES = 4096
"""A header is JSON text, padded with spaces: name, dtype, shape and whether there is a gradient, of each tensor."""

TAGS = 2**24
"""Messages between two ranks are counted up to here, and then from 0 again."""


@dataclass(frozen=True)
class Form:
    """What a receiver must know of a tensor before it comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    requires_grad: bool


@dataclass(frozen=True)
class Parcel:
    """A receive to come.

    Args:
        action: which.
        peer: position of the sender on the axis.
        border: names the form of what flows into a stage: the stage, and the shape of the micro-batch.
    """

    action: Action
    peer: int
    border: Hashable

    @property
    def is_gradient(self) -> bool:
        """Whether gradients come, of those tensors that have one."""
        return self.action.kind is Kind.RECEIVE_BACKWARD


@dataclass
class _Posted:
    """A receive that is under way: of the tensors, or first of a header."""

    tensors: dict[str, Tensor]
    work: Sequence[collectives.Handle]
    header: Tensor | None = None


class Transport:
    """One rank's sends and receives over the pipeline axis.

    Args:
        down: the axis for what goes to later ranks.
        up: the same ranks over another process group, for what goes to earlier ones: on a GPU the sends and receives
            of a pair and a group wait for one another in order, so two directions in one group could deadlock.
        device: where flows live.
    """

    def __init__(self, down: Axis, up: Axis, device: torch.device) -> None:
        """See the class."""
        self._down, self._up, self._device = down, up, device
        self._forms: dict[Hashable, list[Form]] = {}
        self._queues: dict[int, deque[Parcel]] = defaultdict(deque)
        self._posted: dict[Action, _Posted] = {}
        self._sending: list[tuple[int, collectives.Transfer, Tensor]] = []
        self._sent, self._received = Counter[int](), Counter[int]()

    def begin(self, parcels: Sequence[Parcel]) -> None:
        """Post the first receive from each neighbour.

        Args:
            parcels: all receives of the step, in the order in which each sender sends.
        """
        for parcel in parcels:
            self._queues[parcel.peer].append(parcel)
        for queue in self._queues.values():
            self._post_next(queue)

    def send(self, flow: Flow, peer: int, border: Hashable) -> None:
        """Start to send what flows forward over a border.

        Raises:
            ValueError: it has another form than before at this border.
        """
        tensors = named(flow)
        forms = [Form(name, t.dtype, tuple(t.shape), t.requires_grad) for name, t in tensors.items()]
        if border not in self._forms:
            self._forms[border] = forms
            self._start(_header(forms), peer, scalar=True)
            for queue in self._queues.values():  # gradients of this form may be the next to come
                self._post_next(queue)
        if forms != self._forms[border]:
            raise ValueError(
                f"a stage gives {forms} where it gave {self._forms[border]} before, for a micro-batch of the same "
                "shape; what flows between stages must depend on that shape alone."
            )
        for tensor in tensors.values():
            self._start(tensor.detach(), peer)

    def send_gradients(self, gradients: Gradients, peer: int, border: Hashable) -> None:
        """Start to send the gradients of what came over a border; zeros for a tensor on which nothing depends."""
        for form in self._forms[border]:
            if form.requires_grad:
                gradient = gradients.get(form.name)
                if gradient is None:
                    gradient = torch.zeros(form.shape, dtype=form.dtype, device=self._device)
                self._start(gradient, peer)

    def receive(self, parcel: Parcel) -> dict[str, Tensor]:
        """Return what comes, by name, and post the next receive from the same neighbour.

        Raises:
            LostRank: the neighbour is gone, or silent for as long as the process group waits.
        """
        queue = self._queues[parcel.peer]
        assert queue.popleft() == parcel, f"{parcel.action} is not the next receive from its neighbour"
        posted = self._posted.pop(parcel.action)
        try:
            if posted.header is not None:
                posted.work[0].wait()
                self._forms[parcel.border] = _read_header(posted.header)
                posted = self._post(parcel)
            for work in posted.work:
                work.wait()
        except LostRank as error:
            raise self._lost(f"in {parcel.action}", parcel.peer, error) from error
        self._post_next(queue)
        return posted.tensors

    def finish(self) -> None:
        """Return when everything that was sent has arrived.

        Raises:
            LostRank: a neighbour is gone, or silent for as long as the process group waits.
        """
        for peer, work, _ in self._sending:
            try:
                work.wait()
            except LostRank as error:
                raise self._lost("at the end of a step", peer, error) from error
        self._sending.clear()

    def _lost(self, where: str, peer: int, error: LostRank) -> LostRank:
        ranks, reason = self._down.ranks, " ".join(str(error.__cause__).split())[:200]
        return LostRank(
            f"rank {ranks[self._down.rank]} waited {where} for rank {ranks[peer]}, which is gone or silent ({reason})."
        )

    def _direction(self, peer: int) -> Axis:
        return self._down if peer > self._down.rank else self._up

    def _start(self, tensor: Tensor, peer: int, *, scalar: bool = False) -> None:
        self._sending = [sending for sending in self._sending if not sending[1].is_completed()]
        work = collectives.send_async(tensor, self._direction(peer), peer, _next(self._sent, peer), scalar=scalar)
        self._sending.append((peer, work, tensor))

    def _post_next(self, queue: deque[Parcel]) -> None:
        """Post the next receive, unless it is of gradients whose form this rank has yet to send."""
        if queue and queue[0].action not in self._posted and not (queue[0].is_gradient and self._is_new(queue[0])):
            self._posted[queue[0].action] = self._post(queue[0])

    def _is_new(self, parcel: Parcel) -> bool:
        return parcel.border not in self._forms

    def _post(self, parcel: Parcel) -> _Posted:
        axis = self._up if parcel.peer > self._down.rank else self._down
        forms = self._forms.get(parcel.border)
        if forms is None:
            header = torch.empty(HEADER_BYTES, dtype=torch.uint8)
            tag = _next(self._received, parcel.peer)
            return _Posted({}, [collectives.receive_async(header, axis, parcel.peer, tag, scalar=True)], header)
        tensors = {
            form.name: torch.empty(form.shape, dtype=form.dtype, device=self._device).requires_grad_(
                form.requires_grad and not parcel.is_gradient
            )
            for form in forms
            if form.requires_grad or not parcel.is_gradient
        }
        work = [
            collectives.receive_async(tensor.detach(), axis, parcel.peer, _next(self._received, parcel.peer))
            for tensor in tensors.values()
        ]
        return _Posted(tensors, work)


def _next(counter: Counter[int], peer: int) -> int:
    counter[peer] += 1
    return counter[peer] % TAGS


def _header(forms: Sequence[Form]) -> Tensor:
    told = [[form.name, str(form.dtype).removeprefix("torch."), form.shape, form.requires_grad] for form in forms]
    text = json.dumps(told).encode()
    if len(text) > HEADER_BYTES:
        raise ValueError(f"{len(forms)} tensors flow from one stage to the next; make them fewer.")
    return torch.tensor(list(text.ljust(HEADER_BYTES)), dtype=torch.uint8)


def _read_header(header: Tensor) -> list[Form]:
    told = json.loads(bytes(header.tolist()))
    return [Form(name, getattr(torch, dtype), tuple(shape), grad) for name, dtype, shape, grad in told]
