"""Oracle: what a permutation and a proportion are; values written down once, so that the order never changes."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from megalm.data.order import Place, SampleOrder, deal, permuted

sizes = st.integers(1, 400)
seeds = st.integers(0, 2**63 - 1)
relaxed = settings(deadline=None, max_examples=60)


@relaxed
@given(sizes, seeds, st.integers(0, 5))
def test_every_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(index, size, seed, epoch) for index in range(size)) == list(range(size))


@relaxed
@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 10)), min_size=1, max_size=4), seeds)
def test_a_corpus_is_read_whole_before_it_is_repeated(corpora: list[tuple[int, float]], seed: int) -> None:
    windows, weights = zip(*corpora, strict=True)
    order = SampleOrder.of(seed, windows, weights)
    read: Counter[tuple[int, int]] = Counter()
    seen: set[Place] = set()
    for place in map(order.place, range(200)):
        assert place not in seen
        assert 0 <= place.window < windows[place.corpus]
        assert place.epoch == 0 or read[place.corpus, place.epoch - 1] == windows[place.corpus]
        seen.add(place)
        read[place.corpus, place.epoch] += 1


@relaxed
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(0, 10**15))
def test_shares_are_exact(weights: list[float], start: int) -> None:
    shares = SampleOrder.of(0, [1] * len(weights), weights).shares
    assert [Fraction(share, shares[0]) for share in shares] == [Fraction(w) / Fraction(weights[0]) for w in weights]
    drawn = Counter(deal(n, shares) for n in range(start, start + 50))
    assert max(drawn.values()) == 1
    for corpus, share in enumerate(shares):
        counts = [count for which, count in drawn if which == corpus]
        expected = Fraction(share, sum(shares)) * start
        assert not counts or abs(min(counts) - expected) <= len(weights)
        assert sorted(counts) == list(range(min(counts, default=0), min(counts, default=0) + len(counts)))
        assert abs(len(counts) - 50 * Fraction(share, sum(shares))) <= 2 * len(weights)


@relaxed
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_a_whole_round_deals_whole_shares(a: int, b: int, c: int) -> None:
    total = a + b + c
    dealt = Counter(deal(n, (a, b, c))[0] for n in range(3 * total))
    assert [dealt[corpus] for corpus in range(3)] == [3 * a, 3 * b, 3 * c]


@relaxed
@given(seeds, st.integers(0, 2**40))
def test_a_place_depends_on_seed_and_number_only(seed: int, n: int) -> None:
    def order() -> SampleOrder:
        return SampleOrder.of(seed, (977, 31), (0.75, 0.25))

    used = order()
    for other in (n + 1, 0, n // 2):
        used.place(other)
    assert used.place(n) == order().place(n)


def test_epochs_corpora_and_seeds_are_ordered_differently() -> None:
    keys = [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0)]
    orders = [tuple(permuted(index, 1000, *key) for index in range(1000)) for key in keys]
    for index, one in enumerate(orders):
        for other in (tuple(range(1000)), *orders[:index]):
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_neighbours_are_scattered() -> None:
    image = [permuted(index, 10_000, 7, 0, 0) for index in range(10_000)]
    steps = [abs(a - b) for a, b in pairwise(image)]
    assert 3_100 < sum(steps) / len(steps) < 3_570  # the mean distance of two random numbers below n is n / 3


def test_the_order_is_the_one_of_every_version() -> None:
    order = SampleOrder.of(1234, (1000, 10), (3.0, 1.0))
    assert [order.place(n) for n in (0, 1, 2, 3, 4000, 10**12)] == [
        Place(1, 0, 0),
        Place(0, 0, 294),
        Place(0, 0, 423),
        Place(0, 0, 549),
        Place(1, 100, 5),
        Place(1, 25000000000, 2),
    ]
