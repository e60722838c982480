"""Oracle: sums, largest and smallest values by hand; ledger entries by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megalm import collectives
from megalm.ledger import Entry, Ledger
from megalm.mesh import Axis
from tests.ranks import RankContext, RankPool

SIZES = (2, 3, 4)


def axis_of(context: RankContext, ledger: Ledger | None = None) -> Axis:
    return Axis("tp", tuple(range(context.num_ranks)), context.rank, dist.group.WORLD, ledger)


def rows_of(rank: int, count: int) -> list[list[float]]:
    """Return rows that name their rank: [count, 2]."""
    return [[100.0 * rank + row, -(100.0 * rank + row)] for row in range(count)]


def reductions(context: RankContext) -> dict[str, Any]:
    axis, rank = axis_of(context), context.rank
    found: dict[str, Any] = {}
    operations: tuple[collectives.Reduction, ...] = ("sum", "max", "min")
    for op in operations:
        tensor = torch.tensor([[rank + 1.0, -rank]], dtype=torch.float64)
        result = collectives.all_reduce(tensor, axis, op)
        found[op] = result.tolist()
        found[f"{op} in place"] = result is tensor
    late = torch.tensor([10**rank])
    handle = collectives.all_reduce_async(late, axis)
    handle.wait()
    found["async"] = late.tolist()
    return found


def gathers(context: RankContext) -> dict[str, Any]:
    axis, n = axis_of(context), context.num_ranks
    own = torch.tensor(rows_of(context.rank, 3))
    strided = torch.tensor(rows_of(context.rank, 6))[::2]
    whole, handle = collectives.all_gather_rows_async(own, axis)
    handle.wait()
    summed = torch.tensor(rows_of(context.rank, 2 * n))
    share, started = collectives.reduce_scatter_rows_async(summed, axis)
    started.wait()
    return {
        "gathered": collectives.all_gather_rows(own, axis).tolist(),
        "gathered async": whole.tolist(),
        "gathered strided": collectives.all_gather_rows(strided, axis).tolist(),
        "gathered flat": collectives.all_gather_rows(own[:, 0], axis).tolist(),
        "scattered": collectives.reduce_scatter_rows(summed, axis).tolist(),
        "scattered async": share.tolist(),
        "input kept": summed.tolist() == rows_of(context.rank, 2 * n),
    }


def broadcasts(context: RankContext) -> list[list[float]]:
    axis = axis_of(context)
    found = []
    for source in range(context.num_ranks):
        tensor = torch.tensor([float(context.rank), 7.0])
        assert collectives.broadcast(tensor, axis, source) is tensor
        found.append(tensor.tolist())
    collectives.barrier(axis)
    return found


def broadcast_in_a_part(context: RankContext) -> float:
    """Broadcast in groups whose positions are not their global ranks."""
    first = context.rank // 2 * 2
    group = dist.new_group([first, first + 1], use_local_synchronization=True)
    axis = Axis("dp", (first, first + 1), context.rank - first, group)
    return collectives.broadcast(torch.tensor(float(context.rank)), axis, 1).item()


def objects(context: RankContext) -> list[Any]:
    values: list[Any] = [None, {"name": "poids — ü", "loss": [1.5, None]}, "x" * 300, [], 0]
    return collectives.gather_objects(values[context.rank], axis_of(context))


def calls(axis: Axis) -> None:
    """Make one call of each kind."""
    size = axis.size
    collectives.all_reduce(torch.ones(3, dtype=torch.float64), axis)
    collectives.all_reduce(torch.ones(()), axis, "max", scalar=True)
    collectives.all_reduce_async(torch.ones(2, 2), axis).wait()
    collectives.all_gather_rows(torch.ones(2, 5, dtype=torch.bfloat16), axis)
    collectives.all_gather_rows_async(torch.ones(1, 5), axis)[1].wait()
    collectives.reduce_scatter_rows(torch.ones(4 * size, 3), axis)
    collectives.reduce_scatter_rows_async(torch.ones(size, 3), axis)[1].wait()
    collectives.broadcast(torch.ones(6, dtype=torch.int64), axis)
    collectives.barrier(axis)
    collectives.gather_objects("four" if axis.rank == 0 else "", axis)


def entries(context: RankContext, closed: bool) -> list[Entry]:
    ledger = Ledger()
    if closed:
        ledger.close()
    calls(axis_of(context, ledger))
    calls(axis_of(context))
    return ledger.entries


@pytest.mark.parametrize("size", SIZES)
def test_reductions(ranks: RankPool, size: int) -> None:
    wanted = {
        "sum": [[size * (size + 1) / 2, -size * (size - 1) / 2]],
        "max": [[float(size), 0.0]],
        "min": [[1.0, 1.0 - size]],
        "sum in place": True,
        "max in place": True,
        "min in place": True,
        "async": [int("1" * size)],
    }
    assert ranks.run(size, reductions) == [wanted] * size


@pytest.mark.parametrize("size", SIZES)
def test_gathered_rows_stand_in_rank_order_and_scattered_rows_are_sums(ranks: RankPool, size: int) -> None:
    ranks_sum = 100.0 * size * (size - 1) / 2
    gathered = [row for rank in range(size) for row in rows_of(rank, 3)]
    for rank, found in enumerate(ranks.run(size, gathers)):
        mine = [[ranks_sum + size * row, -ranks_sum - size * row] for row in (2 * rank, 2 * rank + 1)]
        assert found == {
            "gathered": gathered,
            "gathered async": gathered,
            "gathered strided": [row for source in range(size) for row in rows_of(source, 6)[::2]],
            "gathered flat": [first for first, _ in gathered],
            "scattered": mine,
            "scattered async": mine,
            "input kept": True,
        }


@pytest.mark.parametrize("size", SIZES)
def test_a_broadcast_comes_from_any_position(ranks: RankPool, size: int) -> None:
    assert ranks.run(size, broadcasts) == [[[float(source), 7.0] for source in range(size)]] * size


def test_a_source_is_a_position_of_the_axis(ranks: RankPool) -> None:
    assert ranks.run(4, broadcast_in_a_part) == [1.0, 1.0, 3.0, 3.0]


@pytest.mark.parametrize("size", [2, 5])
def test_objects_of_different_lengths_are_gathered_in_order(ranks: RankPool, size: int) -> None:
    values: list[Any] = [None, {"name": "poids — ü", "loss": [1.5, None]}, "x" * 300, [], 0]
    assert ranks.run(size, objects) == [values[:size]] * size


@pytest.mark.parametrize("size", SIZES)
def test_the_ledger_holds_each_call_with_the_bytes_of_its_whole_tensor(ranks: RankPool, size: int) -> None:
    wanted = [
        Entry("all_reduce", "tp", "float64", 3 * 8),
        Entry("all_reduce", "tp", "float32", 4, scalar=True),
        Entry("all_reduce", "tp", "float32", 4 * 4),
        Entry("all_gather", "tp", "bfloat16", 10 * 2 * size),
        Entry("all_gather", "tp", "float32", 5 * 4 * size),
        Entry("reduce_scatter", "tp", "float32", 12 * 4 * size),
        Entry("reduce_scatter", "tp", "float32", 3 * 4 * size),
        Entry("broadcast", "tp", "int64", 6 * 8),
        Entry("barrier", "tp", "none", 0, scalar=True),
        Entry("all_reduce", "tp", "int64", 8, scalar=True),
        Entry("all_gather", "tp", "uint8", len('"four"') * size, scalar=True),
    ]
    assert ranks.run(size, entries, False) == [wanted] * size


def test_a_closed_ledger_gets_nothing(ranks: RankPool) -> None:
    assert ranks.run(2, entries, True) == [[], []]


def test_alone_nothing_is_sent_or_recorded() -> None:
    ledger = Ledger()
    axis = Axis("tp", (0,), 0, None, ledger)
    calls(axis)
    assert ledger.entries == []
    tensor = torch.ones(2, 2)
    same: list[Callable[[], object]] = [
        lambda: collectives.all_reduce(tensor, axis),
        lambda: collectives.all_gather_rows(tensor, axis),
        lambda: collectives.reduce_scatter_rows(tensor, axis),
        lambda: collectives.broadcast(tensor, axis),
    ]
    assert all(call() is tensor for call in same)
    unspeakable = object()
    assert collectives.gather_objects(unspeakable, axis) == [unspeakable]


def ring(context: RankContext) -> list[float]:
    """Send three numbers to the next rank before receiving those of the one before, the last one first."""
    axis = axis_of(context)
    after, before = (axis.rank + 1) % axis.size, (axis.rank - 1) % axis.size
    sent = [collectives.send_async(torch.tensor([10.0 * axis.rank + n]), axis, after, n) for n in range(3)]
    into = [torch.zeros(1) for _ in range(3)]
    received = [collectives.receive_async(into[n], axis, before, n) for n in (2, 0, 1)]
    for work in (*sent, *received):
        work.wait()
    assert all(work.is_completed() for work in sent)
    return [tensor.item() for tensor in into]


@pytest.mark.parametrize("size", [2, 3])
def test_sends_are_matched_by_their_tag(ranks: RankPool, size: int) -> None:
    for rank, found in enumerate(ranks.run(size, ring)):
        assert found == [10.0 * ((rank - 1) % size) + n for n in range(3)]
