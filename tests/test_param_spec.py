"""Oracle: counting in numpy: over all ranks, every element of the whole parameter is counted exactly once."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from megalm.param_spec import Init, ParamSpec, Split, even_ranges

patient = settings(deadline=None, max_examples=60)
Ranges = tuple[tuple[int, int], ...]


@st.composite
def covers(draw: st.DrawFn) -> tuple[int, Ranges]:
    """Draw a size and ranges that cover it in order; neighbours may overlap, and ranges may be empty."""
    size, parts = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    starts = [0, *sorted(draw(st.lists(st.integers(0, size), min_size=parts - 1, max_size=parts - 1)))]
    ranges, reached = [], 0
    for start, following in pairwise([*starts, size]):
        reached = draw(st.integers(max(reached, following, start), size))
        ranges.append((start, reached))
    return size, tuple(ranges)


@st.composite
def specs(draw: st.DrawFn) -> tuple[ParamSpec, dict[str, int]]:
    """Draw a spec and the sizes of the axes of ranks that hold it."""
    size, ranges = draw(covers())
    dim = draw(st.sampled_from([0, 1]))
    shape = (size, 3) if dim == 0 else (3, size)
    axes = {"tp": len(ranges), "other": draw(st.integers(1, 3))}
    return ParamSpec(shape, split=draw(st.sampled_from([Split("tp", dim, ranges), None]))), axes


def count(spec: ParamSpec, axes: dict[str, int]) -> NDArray[np.int64]:
    """Count how many ranks own each element of the whole parameter."""
    counted = np.zeros(spec.shape, np.int64)
    for places in product(*(range(size) for size in axes.values())):
        positions = dict(zip(axes, places, strict=True))
        owned = spec.owned_slices(positions)
        if owned is not None:
            counted[spec.local_slices(positions)][owned] += 1
    return counted


@patient
@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 8))
def test_even_ranges_cut_everything_once_and_differ_by_one_unit(size: int, parts: int, multiple_of: int) -> None:
    ranges = even_ranges(size, parts, multiple_of)
    assert len(ranges) == parts
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(stop == start for (_, stop), (start, _) in pairwise(ranges))
    assert all(start % multiple_of == 0 or start == size for start, _ in ranges)
    units = [-(-(stop - start) // multiple_of) for start, stop in ranges]
    assert max(units) - min(units) <= 1


def test_even_ranges_as_written() -> None:
    assert even_ranges(10, 2) == ((0, 5), (5, 10))
    assert even_ranges(1009, 2) == ((0, 505), (505, 1009))
    assert even_ranges(1009, 3) == ((0, 337), (337, 673), (673, 1009))
    assert even_ranges(130, 2, 64) == ((0, 128), (128, 130))
    assert even_ranges(2, 3) == ((0, 1), (1, 2), (2, 2))


@patient
@given(covers())
def test_the_owned_parts_of_overlapping_ranges_partition_the_dim(case: tuple[int, Ranges]) -> None:
    size, ranges = case
    split = Split("tp", 0, ranges)
    counted = np.zeros(size, np.int64)
    for position, (start, stop) in enumerate(ranges):
        first, last = split.owned(position)
        assert start <= first <= last <= stop
        counted[first:last] += 1
    assert (counted == 1).all()


@patient
@given(covers())
def test_ranges_overlap_when_an_element_lies_in_two_of_them(case: tuple[int, Ranges]) -> None:
    size, ranges = case
    held = np.zeros(size, np.int64)
    for start, stop in ranges:
        held[start:stop] += 1
    assert Split("tp", 0, ranges).overlaps == bool((held > 1).any())


@patient
@given(specs())
def test_every_element_of_a_parameter_is_counted_by_exactly_one_rank(case: tuple[ParamSpec, dict[str, int]]) -> None:
    spec, axes = case
    assert (count(spec, axes) == 1).all()


def test_a_tied_copy_is_counted_by_no_rank() -> None:
    spec = ParamSpec((4, 3), split=Split("tp", 0, ((0, 2), (2, 4))), tied_to="embed.weight")
    assert count(spec, {"tp": 2}).sum() == 0


def test_shared_rows_are_counted_by_the_lowest_rank_and_slices_are_of_the_ranks_own_tensor() -> None:
    spec = ParamSpec((3, 5), split=Split("tp", 0, ((0, 2), (1, 3))))
    assert spec.owned_slices({"tp": 0}) == (slice(0, 2), slice(0, 5))
    assert spec.owned_slices({"tp": 1}) == (slice(1, 2), slice(0, 5))
    same = ParamSpec((1, 5), split=Split("tp", 0, ((0, 1), (0, 1))))
    assert same.owned_slices({"tp": 1}) is None


def test_what_a_rank_holds() -> None:
    spec = ParamSpec((6, 7), split=Split("tp", 1, ((0, 4), (4, 7))))
    assert spec.local_range(0, {"tp": 1}) == (0, 6)
    assert spec.local_range(1, {"tp": 1}) == (4, 7)
    assert spec.local_slices({"tp": 1}) == (slice(0, 6), slice(4, 7))
    assert spec.local_shape({"tp": 0, "dp": 1}) == (6, 4)
    assert spec.local_shape({}) == (6, 4)
    assert ParamSpec((6, 7)).local_shape({"tp": 1}) == (6, 7)


def test_a_name_changes_nothing_else() -> None:
    spec = ParamSpec((2,), Init.constant(1.0), partial_over=("tp",), decay=False)
    named = spec.named("norm.weight")
    assert named.name == "norm.weight"
    assert named.named("") == spec


@pytest.mark.parametrize(
    ("init", "wanted"),
    [
        (Init.normal(0.5), ("normal", 0.5, 0.0)),
        (Init.constant(2.0), ("constant", 0.0, 2.0)),
        (Init.given(), ("given", 0.0, 0.0)),
    ],
)
def test_inits(init: Init, wanted: tuple[str, float, float]) -> None:
    assert (init.kind, init.std, init.value) == wanted


@pytest.mark.parametrize("ranges", [((0, 4), (2, 3)), ((3, 6), (0, 3)), ((0, 2), (5, 3)), ((-1, 2), (2, 3))])
def test_ranges_that_do_not_ascend_are_refused(ranges: Ranges) -> None:
    with pytest.raises(ValueError, match="the ranges of dim 0 over tp do not ascend"):
        Split("tp", 0, ranges)
