"""Oracle: the bits of the whole tensors, from which every rectangle that is saved or wanted is cut."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megalm.checkpoint.store import CheckpointStore, open_checkpoint
from megalm.param_spec import Split
from tests.checkpoint.tensors import (
    DTYPES,
    Rectangle,
    alone,
    bits,
    blank,
    cut,
    model,
    tensor_of,
    world_of,
)
from tests.ranks import RankContext, RankFailure, RankPool

Cutter = Callable[[tuple[int, ...], int, int], list[Rectangle]]
"""(whole shape, number of ranks, rank) -> the rectangles that the rank holds."""


def in_rows(shape: tuple[int, ...], num_ranks: int, rank: int) -> list[Rectangle]:
    """Uneven rows; a tensor with fewer rows than ranks leaves the last ones with nothing."""
    if not shape:
        return [()]
    each = -(-shape[0] // num_ranks)
    rows = (min(rank * each, shape[0]), min((rank + 1) * each, shape[0]))
    return [(rows, *((0, size) for size in shape[1:]))] if rows[0] < rows[1] else []


def in_columns_of_pairs(shape: tuple[int, ...], num_ranks: int, rank: int) -> list[Rectangle]:
    """The last dim over half of the ranks; the other half holds the same."""
    if not shape:
        return [()]
    half = max(num_ranks // 2, 1)
    ends = [shape[-1] * at // half for at in range(half + 1)]
    columns = ends[rank % half], ends[rank % half + 1]
    return [(*((0, size) for size in shape[:-1]), columns)] if columns[0] < columns[1] else []


def in_flat_ranges(shape: tuple[int, ...], num_ranks: int, rank: int) -> list[Rectangle]:
    """Even ranges of the elements in order, as ZeRO holds them: of a matrix one to three rectangles."""
    if len(shape) != 2:
        return in_rows(shape, num_ranks, rank)
    rows, columns = shape
    start, stop = (rows * columns * at // num_ranks for at in (rank, rank + 1))
    rectangles: list[Rectangle] = []
    while start < stop:
        row, column = divmod(start, columns)
        if column == 0 and stop - start >= columns:
            last = row + (stop - start) // columns
            rectangles.append(((row, last), (0, columns)))
            start = last * columns
        else:
            end = min(columns, column + stop - start)
            rectangles.append(((row, row + 1), (column, end)))
            start += end - column
    return rectangles


def everywhere(shape: tuple[int, ...], num_ranks: int, rank: int) -> list[Rectangle]:
    """Every rank holds all of it."""
    return [tuple((0, size) for size in shape)]


def overlapping(shape: tuple[int, ...], num_ranks: int, rank: int) -> list[Rectangle]:
    """Rows shared with the neighbours: for loading only."""
    rectangles = in_rows(shape, num_ranks, rank) if shape else []
    return [((max(rows[0] - 1, 0), min(rows[1] + 2, shape[0])), *rest) for rows, *rest in rectangles] or everywhere(
        shape, num_ranks, rank
    )


def save_cut(context: RankContext, directory: Path, cutter: Cutter, version: int, asynchronous: bool) -> None:
    store = CheckpointStore(directory, world=world_of(context), keep=2)
    whole = model(version)
    pieces = {
        name: cut(tensor, cutter(tuple(tensor.shape), context.num_ranks, context.rank))
        for name, tensor in whole.items()
    }
    store.save(version, pieces, {"version": version}, asynchronous=asynchronous)
    if asynchronous:
        for tensor in whole.values():
            tensor.zero_()
    store.wait()


def load_cut(context: RankContext, directory: Path, cutter: Cutter) -> str:
    """Load rectangles into a canvas of other bits, and compare the canvas with the whole tensor where it was wanted."""
    found = CheckpointStore(directory, world=world_of(context), keep=2).newest()
    assert found is not None
    whole = model(found.facts["version"])
    canvas = blank(whole)
    expected = {name: tensor.clone() for name, tensor in canvas.items()}
    pieces = {}
    for name, tensor in whole.items():
        rectangles = cutter(tuple(tensor.shape), context.num_ranks, context.rank)
        pieces[name] = cut(canvas[name], rectangles)
        for rectangle in rectangles:
            place = tuple(slice(*ends) for ends in rectangle)
            expected[name][place] = tensor[place]
    found.load(pieces)
    for name, tensor in expected.items():
        assert bits(canvas[name]) == bits(tensor), name
    return found.folder.name


@pytest.mark.parametrize("saved_as", [in_rows, in_columns_of_pairs, in_flat_ranges, everywhere])
def test_what_four_ranks_save_any_number_of_ranks_loads_cut_otherwise(
    ranks: RankPool, tmp_path: Path, saved_as: Cutter
) -> None:
    ranks.run(4, save_cut, tmp_path, saved_as, 7, False)
    for num_ranks, loaded_as in (
        (1, everywhere),
        (2, in_flat_ranges),
        (2, in_columns_of_pairs),
        (4, overlapping),
        (4, in_rows),
    ):
        assert ranks.run(num_ranks, load_cut, tmp_path, loaded_as) == ["step-00000007"] * num_ranks


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_fewer_ranks_save_and_more_load(ranks: RankPool, tmp_path: Path, num_ranks: int) -> None:
    ranks.run(num_ranks, save_cut, tmp_path, in_flat_ranges, 1, True)
    assert ranks.run(4, load_cut, tmp_path, overlapping) == ["step-00000001"] * 4


def test_replicas_are_written_once_and_by_ranks_in_turn(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(4, save_cut, tmp_path, everywhere, 1, True)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "step-00000001").glob("*.distcp")}
    whole = sum(tensor.nbytes for tensor in model().values())
    entries = sum(path.read_bytes().count(b"/data/0") for path in (tmp_path / "step-00000001").glob("*.distcp"))
    assert len(sizes) > 1
    assert sum(sizes.values()) >= whole
    assert entries == 2 * len(model())  # an entry of torch.save names its data where it lies and in its directory


def save_grouped_heads(context: RankContext, directory: Path) -> None:
    split = Split("tp", 0, ((0, 3), (2, 6)))
    whole = tensor_of("key", (6, 4), torch.float32)
    start, stop = split.owned(context.rank)
    store = CheckpointStore(directory, world=world_of(context), keep=2)
    store.save(1, {"key": cut(whole, [((start, stop), (0, 4))])}, {}, asynchronous=False)
    into = torch.zeros_like(whole)
    rows = split.ranges[context.rank]
    open_checkpoint(directory / "step-00000001", world_of(context)).load({"key": cut(into, [(rows, (0, 4))])})
    assert bits(into[slice(*rows)]) == bits(whole[slice(*rows)])


def test_rows_that_two_ranks_share_are_saved_by_one_and_loaded_by_both(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(2, save_grouped_heads, tmp_path)


def save_rows(context: RankContext, directory: Path, rows: tuple[tuple[int, int], ...]) -> None:
    whole = torch.ones(6, 4)
    store = CheckpointStore(directory, world=world_of(context), keep=2)
    store.save(1, {"w": cut(whole, [(rows[context.rank], (0, 4))])}, {}, asynchronous=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (((0, 3), (4, 6)), r"w: the ranks save 20 of its 24 elements"),
        (((0, 4), (2, 6)), r"w: the ranks save 32 of its 24 elements"),
        (((0, 6), (0, 3)), r"w: two ranks save rectangles of different sizes from \(0, 0\) on"),
    ],
)
def test_a_save_that_would_miss_or_repeat_elements_is_refused(
    ranks: RankPool, tmp_path: Path, rows: tuple[tuple[int, int], ...], message: str
) -> None:
    with pytest.raises(RankFailure, match=message):
        ranks.run(2, save_rows, tmp_path, rows)
    assert alone(tmp_path).newest() is None


def test_rectangles_that_overlap_as_much_as_they_leave_out_are_refused(tmp_path: Path) -> None:
    piece = cut(torch.ones(4, 4), [((0, 2), (0, 4)), ((1, 3), (0, 4))])
    with pytest.raises(ValueError, match="overlapping chunks"):
        alone(tmp_path).save(1, {"w": piece}, {}, asynchronous=False)


@st.composite
def tilings(draw: st.DrawFn, box: Rectangle) -> list[Rectangle]:
    """Draw rectangles that make up a box: cut it again and again."""
    long = [dim for dim, (start, stop) in enumerate(box) if stop - start > 1]
    if not long or not draw(st.integers(0, 2)):
        return [box]
    dim = draw(st.sampled_from(long))
    at = draw(st.integers(box[dim][0] + 1, box[dim][1] - 1))
    low, high = (box[dim][0], at), (at, box[dim][1])
    return [tile for half in (low, high) for tile in draw(tilings((*box[:dim], half, *box[dim + 1 :])))]


@st.composite
def rectangles_within(draw: st.DrawFn, shape: tuple[int, ...]) -> Rectangle:
    """Draw any rectangle of a tensor, empty ones included."""
    ends = [sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in shape]
    return tuple((start, stop) for start, stop in ends)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_rectangle_comes_back_from_any_tiling(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), max_size=4), label="shape"))
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    tiles = data.draw(tilings(tuple((0, size) for size in shape)), label="saved")
    wanted = data.draw(st.lists(rectangles_within(shape), max_size=4), label="wanted")
    whole = tensor_of("w", shape, dtype)
    with TemporaryDirectory() as directory:
        alone(Path(directory)).save(1, {"w": cut(whole, tiles)}, {}, asynchronous=False)
        found = alone(Path(directory)).newest()
        assert found is not None
        for rectangle in wanted:
            canvas = blank({"w": whole})["w"]
            expected = canvas.clone()
            place = tuple(slice(*ends) for ends in rectangle)
            expected[place] = whole[place]
            found.load({"w": cut(canvas, [rectangle])})
            assert bits(canvas) == bits(expected)
        canvas = blank({"w": whole})["w"]
        found.load({"w": cut(canvas, [*wanted, *tiles])})
        assert bits(canvas) == bits(whole)
