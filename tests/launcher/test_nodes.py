"""Oracle: the machine of each rank of each tp group, counted rank by rank."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megalm.errors import UserError
from megalm.launcher.nodes import check_hosts, check_nodes
from megalm.layout import Layout


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.integers(1, 8))
def test_a_layout_is_refused_exactly_if_a_tp_group_lies_on_two_machines(sizes: list[int], tp: int) -> None:
    world_size = sum(sizes)
    if world_size % tp:
        return
    layout = Layout(dp=world_size // tp, tp=tp)
    machine = [number for number, size in enumerate(sizes) for _ in range(size)]
    split = any(len({machine[rank] for rank in layout.ranks_along(("tp",), first)}) > 1 for first in range(world_size))
    hosts = [f"h{number}" for number in machine]
    check_nodes(layout, sizes, across_nodes=True)
    check_hosts(hosts, tp=1)
    if split:
        with pytest.raises(UserError, match=f"layout.tp={tp} .*tensor.across_nodes=true"):
            check_nodes(layout, sizes, across_nodes=False)
        with pytest.raises(UserError, match=f"layout.tp={tp} .*tensor.across_nodes=true"):
            check_hosts(hosts, tp)
    else:
        check_nodes(layout, sizes, across_nodes=False)
        check_hosts(hosts, tp)


def test_ranks_that_are_dealt_in_turns_are_refused() -> None:
    check_hosts(["h0", "h1"] * 2, tp=1)
    with pytest.raises(UserError, match="rank 0 is on h0, rank 1 on h1"):
        check_hosts(["h0", "h1"] * 2, tp=2)


def test_a_layout_that_does_not_fill_the_machines_is_refused() -> None:
    for sizes in ([4, 3], [8, 8]):
        with pytest.raises(UserError, match=f"needs 8 ranks, but there are {sum(sizes)}"):
            check_nodes(Layout(dp=2, tp=4), sizes, across_nodes=True)


def test_the_sentence_names_the_machine() -> None:
    with pytest.raises(UserError, match="machine 2 of 3 has 6 ranks") as refused:
        check_nodes(Layout(dp=4, tp=4), [4, 6, 6], across_nodes=False)
    assert "\n" not in str(refused.value)
