"""Oracle: numpy's unravel_index, and the ranks laid out as one numpy array with an axis for each axis of the layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from megalm.errors import UserError
from megalm.layout import AXES, Coordinates, Layout

few = st.integers(1, 3)
patient = settings(deadline=None, max_examples=60)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    dp, cp = draw(few), draw(few)
    ep = draw(st.sampled_from([n for n in range(1, dp * cp + 1) if dp * cp % n == 0]))
    return Layout(pp=draw(few), dp=dp, cp=cp, tp=draw(few), ep=ep)


def grid(layout: Layout) -> NDArray[np.int64]:
    """Return all ranks as an array [pp, dp, cp, tp]."""
    return np.arange(layout.world_size).reshape(layout.sizes)


@patient
@given(layouts())
def test_ranks_and_coordinates_are_each_others_inverse(layout: Layout) -> None:
    layout.check(layout.pp * layout.dp * layout.cp * layout.tp)
    for rank in range(layout.world_size):
        place = layout.coordinates(rank)
        assert list(place) == [int(at) for at in np.unravel_index(rank, layout.sizes)]
        assert layout.rank(place) == rank


@patient
@given(layouts(), st.sets(st.sampled_from(AXES)))
def test_the_groups_along_any_axes_are_the_cuts_of_the_grid_and_partition_the_world(
    layout: Layout, axes: set[str]
) -> None:
    inner = [i for i, axis in enumerate(AXES) if axis in axes]
    outer = [i for i, axis in enumerate(AXES) if axis not in axes]
    size = int(np.prod([layout.sizes[i] for i in inner]))
    wanted = grid(layout).transpose(*outer, *inner).reshape(-1, size)
    found = [layout.ranks_along(tuple(axes), rank) for rank in range(layout.world_size)]
    assert set(found) == {tuple(group) for group in wanted.tolist()}
    assert all(rank in group for rank, group in enumerate(found))


@patient
@given(layouts())
def test_expert_groups_are_neighbours_taken_out_of_the_data_ranks(layout: Layout) -> None:
    wanted = grid(layout).transpose(0, 3, 1, 2).reshape(-1, layout.ep)
    found = [layout.expert_ranks(rank) for rank in range(layout.world_size)]
    assert set(found) == {tuple(group) for group in wanted.tolist()}
    assert all(rank in group for rank, group in enumerate(found))
    assert all(set(group) <= set(layout.ranks_along(("dp", "cp"), rank)) for rank, group in enumerate(found))


def test_tensor_parallel_ranks_are_neighbours_and_pipeline_ranks_the_furthest_apart() -> None:
    layout = Layout(pp=2, dp=2, tp=3)
    assert layout.ranks_along(("tp",), 4) == (3, 4, 5)
    assert layout.ranks_along(("dp",), 4) == (1, 4)
    assert layout.ranks_along(("pp",), 4) == (4, 10)
    assert layout.ranks_along(("pp", "tp"), 4) == (3, 4, 5, 9, 10, 11)


def test_experts_do_not_multiply_the_world() -> None:
    assert Layout(pp=2, dp=4, cp=2, tp=3, ep=8).world_size == 48


@pytest.mark.parametrize(
    ("layout", "world_size", "message"),
    [
        (Layout(dp=2, tp=2), 3, "layout pp=1 x dp=2 x cp=1 x tp=2 needs 4 ranks, but there are 3; change"),
        (Layout(dp=3, cp=2, ep=4), 6, "layout.ep=4 does not divide dp x cp = 3 x 2 = 6, out of which"),
        (Layout(tp=2, ep=2), 2, "layout.ep=2 does not divide dp x cp = 1 x 1 = 1"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_in_one_sentence(layout: Layout, world_size: int, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        layout.check(world_size)
    assert message in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("rank", [-1, 6])
def test_a_rank_outside_the_world_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank {rank} is outside 0\.\.5"):
        Layout(dp=2, tp=3).coordinates(rank)


def test_a_place_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="is outside"):
        Layout(dp=2, tp=3).rank(Coordinates(0, 0, 0, 3))


@pytest.mark.parametrize("wrong", [{"tp": 0}, {"tp": "2"}, {"tp": 2.0}, {"tp": True}, {"sp": 2}])
def test_sizes_are_whole_numbers_from_one(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Layout.model_validate(wrong)
