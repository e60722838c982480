"""Oracle: the numbers of a tensor's elements; hypothesis draws shapes and ranges."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from megalm.boxes import Box, boxes, runs


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    numel = torch.Size(shape).numel()
    start = draw(st.integers(0, numel))
    return shape, start, draw(st.integers(start, numel))


@given(ranges())
def test_boxes_hold_the_elements_of_the_range_in_order(drawn: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, stop = drawn
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    found = [numbers[box.slices()] for box in boxes(shape, start, stop)]
    assert [int(n) for part in found for n in part.flatten()] == list(range(start, stop))
    assert all(part.numel() == box.num_elements > 0 for part, box in zip(found, boxes(shape, start, stop), strict=True))


def test_a_matrix_gives_at_most_three() -> None:
    assert list(boxes((5, 4), 2, 18)) == [Box((0, 2), (1, 2)), Box((1, 0), (3, 4)), Box((4, 0), (1, 2))]
    assert list(boxes((5, 4), 0, 20)) == [Box((0, 0), (5, 4))]
    assert list(boxes((5, 4), 5, 7)) == [Box((1, 1), (1, 2))]
    assert list(boxes((7,), 2, 5)) == [Box((2,), (3,))]


@given(ranges(), st.data())
def test_within_is_the_part_that_both_hold(drawn: tuple[tuple[int, ...], int, int], data: st.DataObject) -> None:
    shape, start, stop = drawn
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    other = []
    for size in shape:
        first = data.draw(st.integers(0, size))
        other.append(slice(first, data.draw(st.integers(first, size))))
    wanted = set(numbers[tuple(other)].flatten().tolist())
    for box in boxes(shape, start, stop):
        mine = numbers[box.slices()]
        part = box.within(other)
        both = set() if part is None else set(mine[part.slices()].flatten().tolist())
        assert both == wanted & set(mine.flatten().tolist())


@given(ranges(), st.data())
def test_runs_are_the_elements_of_a_part_in_order(drawn: tuple[tuple[int, ...], int, int], data: st.DataObject) -> None:
    shape, _, _ = drawn
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    part = []
    for size in shape:
        first = data.draw(st.integers(0, size))
        part.append(slice(first, data.draw(st.integers(first, size))))
    found = [n for start, stop in runs(shape, part) for n in range(start, stop)]
    assert found == numbers[tuple(part)].flatten().tolist()


def test_whole_rows_are_one_run() -> None:
    assert list(runs((5, 4), (slice(1, 3), slice(0, 4)))) == [(4, 12)]
    assert list(runs((5, 4), (slice(0, 5), slice(0, 4)))) == [(0, 20)]
    assert list(runs((2, 4), (slice(0, 2), slice(1, 2)))) == [(1, 2), (5, 6)]
    deep = runs((2, 3, 4), (slice(0, 2), slice(1, 3), slice(1, 2)))
    assert list(deep) == [(5, 6), (9, 10), (17, 18), (21, 22)]


def test_moved_adds_the_beginning_of_the_slice() -> None:
    assert Box((1, 2), (1, 1)).moved((10, 20)) == (11, 22)
