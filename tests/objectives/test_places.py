"""Oracle: places and numbers written out."""

import numpy as np

from megalm.data.loader import Rows
from megalm.objectives.places import places_of


def test_a_token_is_named_by_its_sample_and_its_place() -> None:
    empty = np.zeros((2, 4), np.int64)
    rows = Rows(empty, empty.astype(np.int32), np.array([5, 6]))
    places, numbers = places_of(rows, 3)
    assert places.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert numbers.tolist() == [[15, 16, 17], [18, 19, 20]]
    assert places_of(rows, 3, longest=10)[1].tolist() == [[50, 51, 52], [60, 61, 62]]
