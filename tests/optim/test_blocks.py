"""Oracle: every element of a whole matrix by itself: its row, and its column over 256."""

from itertools import pairwise, product
from math import prod

import pytest
import torch

from megalm.optim.blocks import Place, StateSizes, block_spec, columns_cut
from megalm.param_spec import ParamSpec, Split, even_ranges

SLICES = [
    # local shape, first column
    ((3, 700), 0),
    ((2, 1), 255),
    ((3, 300), 212),
    ((4, 256), 256),
    ((2, 2, 513), 511),
    ((5, 40), 24),
]


def blocks_of(shape: tuple[int, ...], first: int) -> list[tuple[int, int]]:
    """Return the row and the block of the whole row of each element."""
    return [(row, (first + column) // 256) for row, column in product(range(prod(shape[:-1])), range(shape[-1]))]


@pytest.mark.parametrize(("shape", "first"), SLICES)
def test_blocks_are_numbered_in_the_order_of_their_elements(shape: tuple[int, ...], first: int) -> None:
    grid, known = Place(shape, first, 0, prod(shape)).grid, blocks_of(shape, first)
    numbers = {block: number for number, block in enumerate(dict.fromkeys(known))}
    assert [grid.block(element) for element in range(len(known))] == [numbers[block] for block in known]
    assert grid.rows * grid.per_row == len(numbers)
    assert [grid.is_cut(element) for element in range(len(known))] == [
        False,
        *(before == after for before, after in pairwise(known)),
    ]


@pytest.mark.parametrize(("shape", "first"), SLICES)
@pytest.mark.parametrize("num_shares", [1, 3, 7])
def test_what_shares_keep_is_counted(shape: tuple[int, ...], first: int, num_shares: int) -> None:
    """The slice lies at 64 of a bucket, between vectors of 20 and 30 elements."""
    size, known = prod(shape), blocks_of(shape, first)
    end = 64 + -(-size // 32) * 32
    places = [Place((20,), 0, 0, 64), Place(shape, first, 64, end), Place((30,), 5, end, end + 32)]
    share = -(-(end + 32) // num_shares)
    total = StateSizes()
    for start in range(0, num_shares * share, share):
        kept = sum((place.sizes(start, start + share) for place in places), StateSizes())
        owned = known[max(start - 64, 0) : max(start + share - 64, 0)]
        assert (kept.codes, kept.absmax) == (len(owned), len(set(owned)))
        total += kept
    assert (total.codes, total.wide) == (size, 64 + 32)
    assert StateSizes(codes=5, absmax=3, wide=2).num_bytes(8) == 5 + 4 * 3 + 8 * 2


@pytest.mark.parametrize(
    "ranges", [even_ranges(700, 3), even_ranges(512, 2), even_ranges(3, 5), ((0, 300), (200, 700))]
)
def test_ranks_that_share_a_block_overlap_in_it(ranges: tuple[tuple[int, int], ...]) -> None:
    spec = ParamSpec((6, ranges[-1][1]), split=Split("tp", 1, ranges), name="w")
    blocks = block_spec(spec)
    owners: dict[int, int] = {}
    assert blocks.shape == (6, -(-spec.shape[1] // 256))
    for rank, (start, stop) in enumerate(ranges):
        held = {column // 256 for column in range(start, stop)}
        (_, part) = blocks.local_slices({"tp": rank})
        assert held <= set(range(part.start, part.stop))
        counted = blocks.owned_slices({"tp": rank})
        if counted is not None:
            mine = range(part.start + counted[1].start, part.start + counted[1].stop)
            assert set(mine) <= held  # who counts a block has a part of it
            owners.update(dict.fromkeys(mine, rank))
    assert sorted(owners) == list(range(blocks.shape[1]))
    assert columns_cut(spec) == sorted(
        {cut // 256 for part in ranges for cut in part if cut % 256 and cut != spec.shape[1]}
    )


def test_rows_that_are_cut_and_vectors_cut_no_block() -> None:
    by_row = ParamSpec((9, 700), split=Split("tp", 0, even_ranges(9, 2)))
    assert columns_cut(by_row) == columns_cut(ParamSpec((9, 700))) == []
    assert block_spec(by_row).split == by_row.split
    assert torch.Size(block_spec(ParamSpec((2, 3, 257))).shape) == (2, 3, 2)
