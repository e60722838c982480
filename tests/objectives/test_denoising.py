"""Oracle: damage by hand with given numbers; shares counted; lengths and places by chi-square at a fixed seed."""

import math
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from megalm.objectives.config import Noise
from megalm.objectives.denoising import Denoising, fitted, infilled, permuted, span_lengths
from megalm.objectives.draws import Draws
from tests.objectives.chi_square import chance
from tests.objectives.samples import numbered

MASK = 999_999
TEXT = np.arange(10, 20)


def damaged(
    way: Noise, samples: list[int], length: int = 40, density: float = 0.3, ends: NDArray[np.bool_] | None = None
) -> list[list[int]]:
    """Return what became of the texts; each target must be its text."""
    rows = numbered(samples, length)
    denoising = Denoising({way}, density, 3.0, MASK, ends)
    sources, targets = denoising(rows, Draws(3, rows.samples_b))
    assert np.array_equal(np.stack(list(targets)), rows.tokens_bs[:, :-1])
    return [source.tolist() for source in sources]


def test_masks_replace_the_exact_share_anywhere() -> None:
    hits = np.zeros(40)
    for number, source in enumerate(damaged("mask", list(range(2000)))):
        masked = [place for place, token in enumerate(source) if token == MASK]
        assert len(masked) == 12
        assert all(token in (MASK, 1000 * number + place) for place, token in enumerate(source))
        hits[masked] += 1
    assert chance(hits) > 1e-3


def test_deletion_takes_the_exact_share_anywhere() -> None:
    left = np.zeros(40)
    for number, source in enumerate(damaged("delete", list(range(2000)))):
        assert len(source) == 28
        assert source == sorted(source)
        left[np.array(source) - 1000 * number] += 1
    assert chance(left) > 1e-3


def test_rotation_begins_anywhere() -> None:
    begins = Counter[int]()
    for number, source in enumerate(damaged("rotate", list(range(2000)))):
        first = source[0] - 1000 * number
        assert source == [1000 * number + (first + place) % 40 for place in range(40)]
        begins[first] += 1
    assert len(begins) == 40
    assert chance(list(begins.values())) > 1e-3


def test_sentences_change_places_whole() -> None:
    ends = np.zeros(20, np.bool_)
    ends[[12, 13, 19]] = True  # 10 11 12 | 13 | 14 ... 19
    assert permuted(TEXT, ends, np.array([0.5, 0.9, 0.1])).tolist() == [*range(14, 20), 10, 11, 12, 13]
    ends[19] = False  # the last sentence goes on in the next sample
    assert permuted(TEXT, ends, np.array([0.5, 0.1, 0.9])).tolist() == [13, 10, 11, 12, *range(14, 20)]
    ends[:] = False
    assert permuted(TEXT, ends, np.array([0.5])).tolist() == TEXT.tolist()


def test_every_order_of_sentences_is_as_likely() -> None:
    ends = np.zeros(10**7, np.bool_)
    ends[np.arange(3000) * 1000 + 10] = ends[np.arange(3000) * 1000 + 25] = True
    orders = Counter[tuple[int, ...]]()
    for number, source in enumerate(damaged("permute", list(range(3000)), ends=ends)):
        assert sorted(source) == [1000 * number + place for place in range(40)]
        orders[tuple(token - 1000 * number for token in source if token - 1000 * number in (0, 11, 26))] += 1
    assert len(orders) == 6
    assert chance(list(orders.values())) > 1e-3


def test_infilling_by_hand() -> None:
    """Two spans of 3 and 0 tokens among the 7 kept: of 9 places the second and the sixth."""
    u = np.array([0.9, 0.1, 0.9, 0.9, 0.9, 0.2, 0.9, 0.9, 0.9])
    assert infilled(TEXT, np.array([3, 0]), u, MASK).tolist() == [10, MASK, 14, 15, 16, MASK, 17, 18, 19]
    assert infilled(TEXT, np.array([0, 3]), u, MASK).tolist() == [10, MASK, 11, 12, 13, MASK, 17, 18, 19]
    at_the_end = np.array([0.9] * 7 + [0.1])
    assert infilled(TEXT, np.array([3]), at_the_end, MASK).tolist() == [*range(10, 17), MASK]
    assert infilled(TEXT, np.array([0]), np.array([0.9] * 10 + [0.1]), MASK).tolist() == [*range(10, 20), MASK]


@pytest.mark.parametrize(
    ("lengths", "total", "spans"),
    [
        ([3, 0, 4, 9], 7, [3, 0, 4]),
        ([3, 0, 4, 9], 5, [3, 0, 2]),
        ([0, 0, 0, 2, 9], 2, [0, 2]),  # as many masks as tokens that they replace
        ([1, 1, 1], 2, [1, 1]),
        ([5], 0, []),
    ],
)
def test_spans_add_up_to_the_share(lengths: list[int], total: int, spans: list[int]) -> None:
    assert fitted(np.array(lengths), total).tolist() == spans


def test_span_lengths_are_poissons() -> None:
    lengths = span_lengths(Draws(1, np.arange(1000)).uniform("lengths", 20), 3.0).ravel()
    counts = np.bincount(np.minimum(lengths, 9), minlength=10)
    shares = [math.exp(-3) * 3**number / math.factorial(number) for number in range(9)]
    assert chance(counts, [*shares, 1 - sum(shares)]) > 1e-3


def test_infilling_hides_the_exact_share_anywhere() -> None:
    hidden, masks = np.zeros(40), 0
    for number, source in enumerate(damaged("infill", list(range(2000)))):
        kept = np.array([token for token in source if token != MASK]) - 1000 * number
        assert len(kept) == 28
        assert kept.tolist() == sorted(kept)
        assert len(source) <= 40
        masks += source.count(MASK)
        hidden += 1
        hidden[kept] -= 1
    inner = hidden[6:34]  # where a span begins is drawn, so the ends are hidden as often only far from them
    assert inner.max() / inner.min() < 1.2
    assert 4 <= masks / 2000 <= 5.5  # 12 tokens in spans of 3, the last cut short


def test_ways_are_done_one_after_the_other() -> None:
    rows = numbered([1, 2], 40)
    ends = np.zeros(10**4, np.bool_)
    ends[[1010, 2010]] = True
    both = Denoising({"permute", "infill", "rotate"}, 0.3, 3.0, MASK, ends)
    for source in both(rows, Draws(3, rows.samples_b))[0]:
        assert MASK in source
        assert len(source[source != MASK]) == 28
        assert source[source != MASK].tolist() != sorted(source[source != MASK])


def test_a_sample_is_damaged_the_same_in_any_company() -> None:
    ways: tuple[Noise, ...] = ("mask", "delete", "infill", "rotate")
    for way in ways:
        assert damaged(way, [4, 5, 6])[1:2] == damaged(way, [5])
