"""Oracle: source and target put together again are the text; cuts counted by hand, and all as likely by chi-square."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from megalm.objectives.draws import Draws
from megalm.objectives.pair_lengths import SpanSizes
from megalm.objectives.span_corruption import SpanCorruption
from tests.objectives.chi_square import chance
from tests.objectives.samples import numbered

FIRST_SENTINEL = 10**9
SENTINELS = FIRST_SENTINEL + np.arange(200)


def corrupted(
    samples: list[int], length: int, density: float = 0.15, mean: float = 3.0, seed: int = 5
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    rows = numbered(samples, length)
    corruption = SpanCorruption(SpanSizes.of(length, density, mean), SENTINELS)
    return list(zip(*corruption(rows, Draws(seed, rows.samples_b)), strict=True))


@pytest.mark.parametrize(
    ("length", "density", "mean", "hidden", "spans"),
    [
        (512, 0.15, 3.0, 77, 26),
        (114, 0.15, 3.0, 17, 6),
        (10, 0.15, 3.0, 2, 1),
        (10, 0.5, 1.0, 5, 5),
        (10, 0.9, 1.0, 9, 1),  # each span is behind a token that is read
        (2, 0.01, 3.0, 1, 1),
        (3, 0.99, 30.0, 2, 1),
    ],
)
def test_sizes(length: int, density: float, mean: float, hidden: int, spans: int) -> None:
    sizes = SpanSizes.of(length, density, mean)
    assert (sizes.hidden, sizes.spans) == (hidden, spans)
    source, target = corrupted([3], length, density, mean)[0]
    assert (len(source), len(target)) == (length - hidden + spans, hidden + spans)
    assert sizes.longest == max(len(source), len(target))


def test_by_hand() -> None:
    """The only way to cut two tokens of three, and four of five into four spans."""
    (source, target) = corrupted([2], 3, 0.67, 3.0)[0]
    assert source.tolist() == [2000, FIRST_SENTINEL]
    assert target.tolist() == [FIRST_SENTINEL, 2001, 2002]
    (source, target) = corrupted([2], 8, 0.5, 1.0)[0]
    assert source.tolist() == [2000, 10**9, 2002, 10**9 + 1, 2004, 10**9 + 2, 2006, 10**9 + 3]
    assert target.tolist() == [10**9, 2001, 10**9 + 1, 2003, 10**9 + 2, 2005, 10**9 + 3, 2007]


def test_target_says_what_the_sentinels_of_the_source_hide() -> None:
    for number, (source, target) in enumerate(corrupted(list(range(40)), 100)):
        hidden: dict[int, list[int]] = {}
        for token in target.tolist():
            if token >= FIRST_SENTINEL:
                hidden[token] = []
            else:
                hidden[list(hidden)[-1]].append(token)
        assert (
            list(hidden) == [token for token in source if token >= FIRST_SENTINEL] == SENTINELS[: len(hidden)].tolist()
        )
        assert all(hidden.values())
        again = [part for token in source.tolist() for part in hidden.get(token, [token])]
        assert again == [number * 1000 + place for place in range(100)]


def test_every_cut_is_as_likely() -> None:
    """Of nine tokens, five hidden in two spans: 4 places to cut what is hidden times 3 to cut what is read."""
    found: dict[tuple[int, ...], int] = {}
    for source, target in corrupted(list(range(3000)), 9, 0.55, 2.5):
        cut = (source.tolist().index(FIRST_SENTINEL), target.tolist().index(FIRST_SENTINEL + 1))
        found[cut] = found.get(cut, 0) + 1
    expected = {(read, hidden + 1) for (read,) in combinations((1, 2, 3), 1) for hidden in (1, 2, 3, 4)}
    assert found.keys() == expected
    assert chance(list(found.values())) > 1e-3


def test_a_sample_is_cut_the_same_in_any_company_and_otherwise_with_another_seed() -> None:
    together = corrupted([4, 5, 6], 60)
    assert [part.tolist() for part in corrupted([5], 60)[0]] == [part.tolist() for part in together[1]]
    assert corrupted([5], 60, seed=6)[0][0].tolist() != together[1][0].tolist()
