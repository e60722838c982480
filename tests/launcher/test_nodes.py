"""Oracle: the machine of each rank of each tp group, counted rank by rank."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megalm.errors import UserError
from megalm.launcher.nodes import check_nodes, check_own_node
from megalm.launcher.placement import Placement
from megalm.layout import Layout


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.integers(1, 8))
def test_a_layout_is_refused_exactly_if_a_tp_group_lies_on_two_machines(sizes: list[int], tp: int) -> None:
    world_size = sum(sizes)
    if world_size % tp:
        return
    layout = Layout(dp=world_size // tp, tp=tp)
    machine = [number for number, size in enumerate(sizes) for _ in range(size)]
    split = [len({machine[rank] for rank in layout.ranks_along(("tp",), first)}) > 1 for first in range(world_size)]
    check_nodes(layout, sizes, across_nodes=True)
    for rank, here in enumerate(machine):
        place = Placement(rank, world_size, rank - machine.index(here), sizes[here], "h0", 29500, "torchrun")
        check_own_node(layout, place, across_nodes=True)
        if split[rank]:
            with pytest.raises(UserError, match=f"rank {rank} has {sizes[here]} on its machine"):
                check_own_node(layout, place, across_nodes=False)
        else:
            check_own_node(layout, place, across_nodes=False)
    if any(split):
        with pytest.raises(UserError, match=f"layout.tp={tp} .*tensor.across_nodes=true"):
            check_nodes(layout, sizes, across_nodes=False)
    else:
        check_nodes(layout, sizes, across_nodes=False)


def test_a_layout_that_does_not_fill_the_machines_is_refused() -> None:
    for sizes in ([4, 3], [8, 8]):
        with pytest.raises(UserError, match=f"needs 8 ranks, but there are {sum(sizes)}"):
            check_nodes(Layout(dp=2, tp=4), sizes, across_nodes=True)


def test_the_sentence_names_the_machine() -> None:
    with pytest.raises(UserError, match="machine 2 of 3 has 6 ranks") as refused:
        check_nodes(Layout(dp=4, tp=4), [4, 6, 6], across_nodes=False)
    assert "\n" not in str(refused.value)
