"""Oracle: Layout, and sums by hand that show who is in each process group."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from megalm import collectives
from megalm.errors import UserError
from megalm.layout import Layout
from megalm.ledger import Ledger
from megalm.mesh import Axis, Mesh
from tests.ranks import RankContext, RankFailure, RankPool

NAMES = ("pp", "dp", "cp", "tp", "ep", "data", "model", "world")
ALONG = {"data": ("dp", "cp"), "model": ("pp", "tp"), "world": ("pp", "dp", "cp", "tp")}
LAYOUTS = (
    Layout(tp=4),
    Layout(dp=2, tp=2),
    Layout(pp=2, dp=2, ep=2),
    Layout(dp=2, cp=2, ep=4),
    Layout(pp=2, cp=2),
)


def meet(context: RankContext, layouts: tuple[Layout, ...]) -> list[dict[str, tuple[tuple[int, ...], int, float]]]:
    """Return for each layout and axis: its ranks, this rank's position, and the sum of 10 ** rank over its group."""
    found = []
    for layout in layouts:
        mesh = Mesh.build(layout)
        seen = {}
        for name in NAMES:
            axis: Axis = getattr(mesh, name)
            total = torch.tensor(10.0**context.rank, dtype=torch.float64)
            if axis.size > 1:
                dist.all_reduce(total, group=axis.group)
            else:
                assert axis.group is None
            seen[name] = (axis.ranks, axis.rank, total.item())
        found.append(seen)
    return found


def shared_groups(context: RankContext) -> dict[str, bool | int]:
    made: list[list[int]] = []
    new_group = dist.new_group

    def watched(ranks: list[int], **options: Any) -> object:
        made.append(ranks)
        return new_group(ranks, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "new_group", watched)
        mesh = Mesh.build(Layout(dp=2, tp=2))
    return {
        "groups made": len(made),
        "data is dp": mesh.data.group is mesh.dp.group,
        "model is tp": mesh.model.group is mesh.tp.group,
        "world is the default group": mesh.world.group is dist.group.WORLD,
        "tp is dp": mesh.tp.group is mesh.dp.group,
    }


def first_two(context: RankContext) -> float | None:
    if context.rank >= 2:
        return None
    total = torch.tensor(10.0**context.rank)
    dist.all_reduce(total, group=Mesh.build(Layout(tp=2)).tp.group)
    return total.item()


def build(context: RankContext, layout: Layout) -> None:
    Mesh.build(layout)


def test_every_axis_has_the_ranks_of_the_layout_and_a_group_of_exactly_them(ranks: RankPool) -> None:
    found = ranks.run(4, meet, LAYOUTS)
    for number, layout in enumerate(LAYOUTS):
        for rank in range(4):
            for name, (members, position, total) in found[rank][number].items():
                along = layout.ranks_along(ALONG.get(name, (name,)), rank)
                assert members == (layout.expert_ranks(rank) if name == "ep" else along)
                assert members[position] == rank
                assert total == sum(10.0**member for member in members)


def test_axes_that_span_the_same_ranks_share_a_process_group(ranks: RankPool) -> None:
    wanted = {
        "groups made": 2,
        "data is dp": True,
        "model is tp": True,
        "world is the default group": True,
        "tp is dp": False,
    }
    assert ranks.run(4, shared_groups) == [wanted] * 4


def test_a_layout_may_take_the_first_ranks_of_the_world(ranks: RankPool) -> None:
    assert ranks.run(3, first_two) == [11.0, 11.0, None]


@pytest.mark.parametrize("layout", [Layout(dp=3), Layout(dp=2, ep=3)])
def test_a_layout_that_does_not_fit_is_refused(ranks: RankPool, layout: Layout) -> None:
    with pytest.raises(RankFailure, match=r"megalm\.errors\.UserError: layout"):
        ranks.run(2, build, layout)


def test_one_process_needs_no_process_group() -> None:
    ledger = Ledger()
    for mesh in (Mesh.alone(ledger=ledger), Mesh.build(Layout(), ledger=ledger)):
        assert (mesh.rank, mesh.coordinates, mesh.device) == (0, (0, 0, 0, 0), torch.device("cpu"))
        for name in NAMES:
            axis: Axis = getattr(mesh, name)
            assert (axis.size, axis.rank, axis.group, axis.ledger) == (1, 0, None, ledger)


def test_an_impossible_layout_of_one_process_is_refused() -> None:
    with pytest.raises(UserError, match=r"layout\.ep=2 does not divide"):
        Mesh.build(Layout(ep=2))


def shards(context: RankContext, size: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """Return a rank's two axes of a data axis cut into groups, and the sum of all ranks' numbers over each."""
    mesh = Mesh.build(Layout(dp=context.num_ranks), timeout_s=20)
    axes = mesh.shards(size)
    sums = [collectives.all_reduce(torch.tensor(10.0**context.rank), axis).item() for axis in axes]
    return [axis.ranks for axis in axes], sums


def test_the_data_axis_is_cut_into_neighbours_that_share_and_their_replicas(ranks: RankPool) -> None:
    assert ranks.run(4, shards, 2) == [
        ([(0, 1), (0, 2)], [11, 101]),
        ([(0, 1), (1, 3)], [11, 1010]),
        ([(2, 3), (0, 2)], [1100, 101]),
        ([(2, 3), (1, 3)], [1100, 1010]),
    ]
    assert ranks.run(2, shards, 2) == [([(0, 1), (rank,)], [11, 10**rank]) for rank in range(2)]
    assert ranks.run(2, shards, 1) == [([(rank,), (0, 1)], [10**rank, 11]) for rank in range(2)]


def test_groups_that_do_not_divide_the_data_ranks_are_refused() -> None:
    with pytest.raises(UserError, match="groups of 2 do not divide the 1 data-parallel ranks"):
        Mesh.alone().shards(2)


def test_an_axis_of_ones_own() -> None:
    assert Axis.alone() == Axis("alone", (0,), 0, None, None)
    assert Axis.alone("tp").name == "tp"


def test_a_combination_is_named_by_its_axes() -> None:
    mesh = Mesh.alone()
    assert [mesh.data.name, mesh.model.name, mesh.world.name, mesh.ep.name] == ["dp_cp", "pp_tp", "world", "ep"]


def meet_in_a_part(context: RankContext) -> tuple[tuple[int, ...], float, bool]:
    """Sum 10 ** rank over the first and the last of three pipeline ranks, and over the upward axis."""
    mesh = Mesh.build(Layout(pp=3, tp=2), timeout_s=20)
    total = torch.tensor(10.0**context.rank, dtype=torch.float64)
    ranks: tuple[int, ...] = ()
    if mesh.pp.rank != 1:
        axis = mesh.subset("pp", [0, 2])
        ranks = axis.ranks
        assert mesh.subset("pp", [0, 2]).group is axis.group
        dist.all_reduce(total, group=axis.group)
    upward = mesh.pp_upward
    assert (upward.ranks, upward.rank) == (mesh.pp.ranks, mesh.pp.rank)
    ones = torch.ones(1)
    dist.all_reduce(ones, group=upward.group)
    return ranks, total.item(), ones.item() == 3 and upward.group is not mesh.pp.group


def test_a_subset_of_an_axis_and_the_upward_axis(ranks: RankPool) -> None:
    found = ranks.run(6, meet_in_a_part)
    assert [ranks for ranks, _, _ in found] == [(0, 4), (1, 5), (), (), (0, 4), (1, 5)]
    assert [total for _, total, _ in found] == [10001, 100010, 100, 1000, 10001, 100010]
    assert all(upward for _, _, upward in found)


def meet_in_a_chain(context: RankContext) -> list[float]:
    mesh = Mesh.build(Layout(pp=context.num_ranks), timeout_s=30)
    totals = []
    for pair in ([0, 1], [2, 3], [1, 2], [0, 1]):
        if mesh.pp.rank in pair:
            total = torch.tensor(10.0**context.rank)
            dist.all_reduce(total, group=mesh.subset("pp", pair).group)
            totals.append(total.item())
        else:
            mesh.leave_out("pp", pair)
    return totals


def test_subsets_that_overlap(ranks: RankPool) -> None:
    assert ranks.run(4, meet_in_a_chain) == [[11, 11], [11, 110, 11], [1100, 110], [1100]]
