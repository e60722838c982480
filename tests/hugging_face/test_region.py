"""Oracle: slices by hand, and numpy's own indexing."""

import numpy as np
import pytest

from megalm.boxes import Box
from megalm.hugging_face.region import Region

HEADS, SIZE, WIDTH = 3, 2, 4
THREE = 3 * HEADS * SIZE


def keys_by_head() -> Region:
    return Region("qkv", (THREE, WIDTH), transposed=False, start=SIZE, run=SIZE, stride=3 * SIZE)


def keys_stacked() -> Region:
    return Region("qkv", (WIDTH, THREE), transposed=True, start=HEADS * SIZE, run=HEADS * SIZE, stride=THREE)


def test_the_keys_of_two_heads() -> None:
    """Heads 1 and 2 of [q0 k0 v0 q1 k1 v1 q2 k2 v2], each two rows."""
    places = list(keys_by_head().places(Box((2, 0), (4, WIDTH))))
    assert places == [
        ((slice(8, 10), slice(0, 4)), (slice(0, 2), slice(0, 4))),
        ((slice(14, 16), slice(0, 4)), (slice(2, 4), slice(0, 4))),
    ]


def test_a_part_of_stacked_and_transposed_keys() -> None:
    places = list(keys_stacked().places(Box((1, 2), (3, 2))))
    assert places == [((slice(2, 4), slice(7, 10)), (slice(0, 3), slice(0, 2)))]


@pytest.mark.parametrize("region", [keys_by_head(), keys_stacked()], ids=["by head", "stacked"])
def test_every_box_holds_what_the_whole_holds_there(region: Region) -> None:
    theirs = np.arange(np.prod(region.shape)).reshape(region.shape)
    rows = theirs.T if region.transposed else theirs
    if region.transposed:
        ours = rows[HEADS * SIZE : 2 * HEADS * SIZE]
    else:
        ours = rows.reshape(HEADS, 3, SIZE, WIDTH)[:, 1].reshape(HEADS * SIZE, WIDTH)
    for first in range(len(ours)):
        for last in range(first + 1, len(ours) + 1):
            box = Box((first, 1), (last - first, 2))
            found = np.zeros(box.sizes, int)
            for there, here in region.places(box):
                found[here] = theirs[there].T if region.transposed else theirs[there]
            np.testing.assert_array_equal(found, ours[first:last, 1:3])


def test_a_vector_has_rows_only() -> None:
    region = Region("bias", (THREE,), transposed=False, start=0, run=SIZE, stride=3 * SIZE)
    assert list(region.places(Box((1,), (2,)))) == [
        ((slice(1, 2),), (slice(0, 1),)),
        ((slice(6, 7),), (slice(1, 2),)),
    ]


def test_a_vector_may_be_a_row_of_theirs() -> None:
    region = Region("bias", (1, 9), transposed=False, start=0, run=9, stride=9, one_row=True)
    assert list(region.places(Box((2,), (5,)))) == [((slice(0, 1), slice(2, 7)), (slice(0, 5),))]
