"""Oracle: sums over the ranks by hand."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from megalm import collectives
from megalm.layout import Layout
from megalm.ledger import Entry, Ledger
from megalm.mesh import Axis, Mesh
from megalm.parallel.data.bucket import Bucket, make_bucket
from megalm.parallel.data.exchange import Exchange
from megalm.param_spec import Init, ParamSpec, Split
from megalm.parameters import new_parameter
from tests.parallel.sums import sum_of
from tests.ranks import RankContext, RankPool

OVERLAP = Split("tp", 0, ((0, 2), (1, 3)))
SPECS = (
    ParamSpec((2, 3), Init.constant(0.0), name="whole"),
    ParamSpec((4,), Init.constant(0.0), partial_over=("tp",), decay=False, name="norm"),
    ParamSpec((4, 2), Init.constant(0.0), Split("tp", 1, ((0, 1), (1, 2))), name="split"),
    ParamSpec((3, 2), Init.constant(0.0), OVERLAP, name="key"),
    ParamSpec((3,), Init.constant(0.0), OVERLAP, decay=False, name="key bias"),
)
LAYOUT = Layout(dp=2, tp=2)


@dataclass
class Outcome:
    """The gradients after the exchange, by name, and what was sent."""

    gradients: dict[str, Tensor]
    entries: list[Entry]


def local_gradient(spec: ParamSpec, rank: int, tp: int) -> Tensor:
    """Return what a rank's own backward makes: 10 ** rank times the number of the element in the whole, from 1."""
    whole = torch.arange(1.0, 1 + torch.Size(spec.shape).numel(), dtype=torch.float64).view(spec.shape)
    return whole[spec.local_slices({"tp": tp})].mul(10**rank)


def bucket_of(specs: tuple[ParamSpec, ...], mesh: Mesh) -> Bucket:
    parameters = [new_parameter(spec, {"tp": mesh.tp.rank}) for spec in specs]
    return make_bucket(parameters, mesh.device, torch.float64)


def exchange(context: RankContext, layout: Layout) -> Outcome:
    ledger = Ledger()
    mesh = Mesh.build(layout, ledger=ledger)
    buckets = [bucket_of(SPECS[:3], mesh), bucket_of((), mesh), bucket_of(SPECS[3:], mesh)]
    engine = Exchange({(0, n): [bucket] for n, bucket in enumerate(buckets)}, *mesh.shards(1), {"tp": mesh.tp})
    for bucket in buckets:
        bucket.gradients.tensor.fill_(float("nan"))
    engine.zero()
    slots = [slot for bucket in buckets for slot in bucket.slots]
    for slot in slots:
        sum_of(slot.parameter).add_(local_gradient(slot.spec, mesh.rank, mesh.tp.rank))
    for block in (2, 1, 0):
        engine.reduce((0, block))
    engine.finish()
    return Outcome({slot.spec.name: sum_of(slot.parameter) for slot in slots}, ledger.entries)


def expected(spec: ParamSpec, layout: Layout, rank: int) -> Tensor:
    """Sum over the data ranks, and over the tensor ranks where each saw a part, or holds a share of the same rows."""
    here = layout.coordinates(rank)
    own = local_gradient(spec, 0, here.tp)
    total = torch.zeros_like(own)
    for other in range(layout.world_size):
        tp = layout.coordinates(other).tp
        if tp == here.tp or spec.partial_over:
            total += own * 10**other
        elif spec.split is not None and spec.split.overlaps:
            (first, last), (start, stop) = spec.split.ranges[tp], spec.split.ranges[here.tp]
            shared = slice(max(first, start) - start, min(last, stop) - start)
            total[shared] += own[shared] * 10**other
    return total


@pytest.mark.parametrize("layout", [LAYOUT, Layout(dp=3), Layout(tp=2), Layout(dp=2)])
def test_gradients_are_summed_over_data_and_where_the_specs_say_so(ranks: RankPool, layout: Layout) -> None:
    for rank, outcome in enumerate(ranks.run(layout.world_size, exchange, layout)):
        for spec in SPECS:
            assert torch.equal(outcome.gradients[spec.name], expected(spec, layout, rank)), spec.name


def test_by_hand(ranks: RankPool) -> None:
    first, second, *_ = ranks.run(4, exchange, LAYOUT)
    assert first.gradients["whole"].flatten().tolist() == [101 * n for n in range(1, 7)]
    assert first.gradients["norm"].tolist() == [1111 * n for n in range(1, 5)]
    assert second.gradients["split"].flatten().tolist() == [1010 * n for n in (2, 4, 6, 8)]
    assert first.gradients["key bias"].tolist() == [101, 2222]
    assert second.gradients["key bias"].tolist() == [2222, 3030]


def test_what_is_sent(ranks: RankPool) -> None:
    partial, shared, bias = (Entry("all_reduce", "tp", "float64", 8 * n) for n in (32, 6, 3))
    keys, first = (Entry("all_reduce", "dp_cp", "float64", 8 * n) for n in (32 + 32, 32 + 32 + 32))  # padded
    for outcome in ranks.run(4, exchange, LAYOUT):
        assert outcome.entries == [bias, shared, keys, partial, first]


def test_alone_nothing_is_sent() -> None:
    outcome = exchange(RankContext(0, 1), Layout())
    assert outcome.entries == []
    assert outcome.gradients["whole"].flatten().tolist() == list(range(1, 7))


class Counted:
    """A sum under way that counts how often it was waited for."""

    def __init__(self) -> None:
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1


def test_a_blocks_sum_runs_on_until_the_end_of_the_step_and_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way: list[Counted] = []

    def start(tensor: Tensor, axis: Axis) -> Counted:
        under_way.append(Counted())
        return under_way[-1]

    monkeypatch.setattr(collectives, "all_reduce_async", start)
    mesh = Mesh.alone()
    buckets = {(0, n): [bucket_of(specs, mesh)] for n, specs in enumerate((SPECS[:1], ()))}
    engine = Exchange(buckets, *mesh.shards(1), {})
    engine.reduce((0, 1))
    engine.reduce((0, 0))
    assert [work.waits for work in under_way] == [0]
    engine.finish()
    engine.finish()
    assert [work.waits for work in under_way] == [1]


def tied(context: RankContext) -> list[Tensor | None]:
    """Of three ranks the first and the last hold a copy of ``tied``; each has one more parameter of its own."""
    mesh = Mesh.build(Layout(pp=3))
    own = ParamSpec((2,), Init.constant(0.0), name=f"own {context.rank}")
    shared = ParamSpec((2, 2), Init.constant(0.0), name="tied")
    holds = context.rank != 1
    buckets = [bucket_of((spec,), mesh) for spec in ((own, shared) if holds else (own,))]
    ties = {"tied": mesh.subset("pp", [0, 2])} if holds else {}
    engine = Exchange({(0, 0): buckets}, *mesh.shards(1), {"tp": mesh.tp}, ties=ties)
    for bucket in buckets:
        sum_of(bucket.slots[0].parameter).fill_(10.0**context.rank)
    engine.reduce((0, 0))
    before = {bucket.slots[0].spec.name: sum_of(bucket.slots[0].parameter).clone() for bucket in buckets}
    engine.finish()
    after = {bucket.slots[0].spec.name: sum_of(bucket.slots[0].parameter) for bucket in buckets}
    assert torch.equal(before[own.name], after[own.name])
    return [before.get("tied"), after.get("tied")]


def test_tied_copies_are_summed_once_when_all_else_is_done(ranks: RankPool) -> None:
    first, middle, last = ranks.run(3, tied)
    assert middle == [None, None]
    assert [float(tensor.mean()) for tensor in (*first, *last) if tensor is not None] == [1, 101, 100, 101]


def shared(context: RankContext, stage: int, shard_size: int) -> dict[str, Tensor]:
    """Sum two micro-batches' gradients at a ZeRO stage, the second begun while the first is under way.

    Returns:
        What this rank owns of each parameter's gradient, NaN elsewhere; and of its values, after each rank has written
        its number into what it owns and all have been gathered.
    """
    mesh = Mesh.build(Layout(dp=context.num_ranks), timeout_s=20)
    shard, replicas = mesh.shards(shard_size)
    parameters = [new_parameter(spec, {}) for spec in (SPECS[0], SPECS[1])]
    bucket = make_bucket(parameters, mesh.device, torch.float64, shard=shard, zero_stage=stage)
    engine = Exchange({(0, 0): [bucket]}, shard, replicas, {"tp": mesh.tp})
    engine.zero()
    for microbatch in (1, 2):
        for slot in bucket.slots:
            sum_of(slot.parameter).add_(microbatch * local_gradient(slot.spec, mesh.rank, 0))
        if stage >= 2 or microbatch == 2:
            engine.reduce((0, 0))
    engine.finish()
    found = {f"{slot.spec.name} gradient": torch.full(slot.spec.shape, torch.nan).double() for slot in bucket.slots}
    for owned in bucket.owned():
        found[f"{owned.slot.spec.name} gradient"][owned.box.slices()] = owned.view(bucket.owned_gradients)
    bucket.owned_values.fill_(shard.rank)
    engine.publish()
    engine.gather((0, 0))
    engine.ready((0, 0))
    found |= {slot.spec.name: slot.parameter.detach().clone() for slot in bucket.slots}
    engine.release((0, 0))
    assert bucket.values.num_bytes == (0 if stage == 3 else bucket.values.tensor.numel() * 8)
    return found


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(("num_ranks", "shard_size"), [(2, 2), (3, 3), (4, 2)])
def test_each_rank_has_the_sum_of_what_it_owns_and_all_get_its_values(
    ranks: RankPool, stage: int, num_ranks: int, shard_size: int
) -> None:
    seen = ranks.run(num_ranks, shared, stage, shard_size)
    for spec in (SPECS[0], SPECS[1]):
        whole = torch.stack([3 * local_gradient(spec, rank, 0) for rank in range(num_ranks)]).sum(0)
        parts = torch.stack([found[f"{spec.name} gradient"] for found in seen])
        owners = parts.isfinite()
        assert (owners.sum(0) == num_ranks // shard_size).all()
        assert torch.equal(parts.nan_to_num().sum(0), whole * (num_ranks // shard_size))
        for found in seen:
            assert torch.equal(found[spec.name], owners[:shard_size].double().argmax(0).double())
