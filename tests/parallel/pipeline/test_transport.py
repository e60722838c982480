"""Oracle: the tensors that were sent, and the ledger."""

import time

import pytest
import torch
from torch import Tensor

from megalm.errors import LostRank
from megalm.layout import Layout
from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.parallel.pipeline.action import Action
from megalm.parallel.pipeline.flow import Flow
from megalm.parallel.pipeline.transport import HEADER_BYTES, Parcel, Transport
from tests.ranks import RankContext, RankPool

CPU = torch.device("cpu")
LARGE = 100_000


def parcel(word: str, peer: int, border: object = 1) -> Parcel:
    return Parcel(Action.parse(word), peer, border)


def rows(value: float, count: int = 3) -> Tensor:
    return torch.full((count, 2), float(value), requires_grad=True)


def exchange(context: RankContext) -> list[dict[str, Tensor]]:
    """Rank 0 sends three flows, two of one form, without waiting; rank 1 answers with gradients, the last one large."""
    mesh = Mesh.build(Layout(pp=2), timeout_s=20)
    transport = Transport(mesh.pp, mesh.pp_upward, CPU)
    flows: list[Flow] = [rows(1), rows(2), {"a": rows(3, LARGE), "ids": torch.arange(LARGE)}]
    borders = ["small", "small", "large"]
    found = []
    if context.rank == 0:
        parcels = [parcel(f"0RECV_B{n}", 1, border) for n, border in enumerate(borders)]
        transport.begin(parcels)
        for flow, border in zip(flows, borders, strict=True):
            transport.send(flow, 1, border)
        found = [transport.receive(item) for item in parcels]
    else:
        parcels = [parcel(f"1RECV_F{n}", 0, border) for n, border in enumerate(borders)]
        transport.begin(parcels)
        found = [transport.receive(item) for item in parcels]
        transport.send_gradients({"": torch.full((3, 2), 10.0)}, 0, "small")
        transport.send_gradients({"": None}, 0, "small")
        transport.send_gradients({"a": torch.full((LARGE, 2), 30.0), "ids": None}, 0, "large")
    transport.finish()
    return found


def test_flows_arrive_in_order_and_only_what_has_a_gradient_comes_back(ranks: RankPool) -> None:
    back, there = ranks.run(2, exchange)
    assert torch.equal(there[0][""], rows(1))
    assert torch.equal(there[1][""], rows(2))
    assert torch.equal(there[2]["a"], rows(3, LARGE))
    assert torch.equal(there[2]["ids"], torch.arange(LARGE))
    assert [there[2][name].requires_grad for name in ("a", "ids")] == [True, False]
    assert torch.equal(back[0][""], torch.full((3, 2), 10.0))
    assert torch.equal(back[1][""], torch.zeros(3, 2))
    assert {name: float(tensor.mean()) for name, tensor in back[2].items()} == {"a": 30.0}


def told_once(context: RankContext) -> list[tuple[str, str, int, bool]]:
    ledger = Ledger()
    mesh = Mesh.build(Layout(pp=2), ledger=ledger, timeout_s=20)
    transport = Transport(mesh.pp, mesh.pp_upward, CPU)
    for _ in range(3):
        if context.rank == 0:
            transport.send(rows(1), 1, "border")
        else:
            item = parcel("1RECV_F0", 0, "border")
            transport.begin([item])
            transport.receive(item)
        transport.finish()
    return [(entry.kind, entry.axis, entry.payload, entry.scalar) for entry in ledger.entries]


def test_a_form_is_told_once_and_every_message_is_in_the_ledger(ranks: RankPool) -> None:
    for kind, entries in zip(("send", "receive"), ranks.run(2, told_once), strict=True):
        assert entries == [(kind, "pp", HEADER_BYTES, True), *[(kind, "pp", 24, False)] * 3]


def changed(context: RankContext) -> str:
    mesh = Mesh.build(Layout(pp=2), timeout_s=20)
    transport = Transport(mesh.pp, mesh.pp_upward, CPU)
    if context.rank == 1:
        item = parcel("1RECV_F0", 0, "border")
        transport.begin([item])
        transport.receive(item)
        return ""
    transport.send(rows(1), 1, "border")
    transport.finish()
    try:
        transport.send(rows(1, count=4), 1, "border")
    except ValueError as error:
        return str(error)
    return "accepted"


def test_another_form_at_the_same_border_is_refused(ranks: RankPool) -> None:
    assert "what flows between stages must depend on that shape alone" in ranks.run(2, changed)[0]


def abandoned(context: RankContext, timeout_s: float) -> tuple[str, float]:
    mesh = Mesh.build(Layout(pp=2, dp=2), timeout_s=timeout_s)
    transport = Transport(mesh.pp, mesh.pp_upward, CPU)
    started = time.monotonic()
    if context.rank == 3:
        time.sleep(2 * timeout_s)
        return "", 0.0
    item = parcel("0RECV_B4", 1, "border") if mesh.pp.rank == 0 else parcel("1RECV_F4", 0, "border")
    try:
        if mesh.pp.rank == 0:
            transport.send(rows(1), 1, "border")
        transport.begin([item])
        transport.receive(item)
        if mesh.pp.rank == 1:
            transport.send_gradients({"": torch.zeros(3, 2)}, 0, "border")
        transport.finish()
    except LostRank as error:
        return str(error), time.monotonic() - started
    return "received", 0.0


def test_a_silent_neighbour_is_named_with_the_action_after_the_time_out(ranks: RankPool) -> None:
    told = ranks.run(4, abandoned, 2.0)
    assert [what for what, _ in told[::2]] == ["received", "received"]
    sentence, seconds = told[1]
    assert sentence.startswith("rank 1 waited in 0RECV_B4 for rank 3, which is gone or silent (")
    assert 1.5 < seconds < 10


def test_more_names_than_a_header_holds_are_refused() -> None:
    transport = Transport(Mesh.alone().pp, Mesh.alone().pp, CPU)
    with pytest.raises(ValueError, match="200 tensors flow from one stage to the next"):
        transport.send({f"a rather long name {n}": rows(n) for n in range(200)}, 1, "border")
