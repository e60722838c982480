"""Oracle: the ranks themselves, drawn at random and written out."""

import random

import pytest

from megalm.layout import Layout
from megalm.watch.position import Call, Channel, compact, expand, size


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ((3,), "3"),
        ((0, 1), "0-1"),
        ((0, 2), "0,2"),
        (tuple(range(16)), "0-15"),
        (tuple(range(0, 128, 8)), "0-120:8"),
        ((*range(8), *range(64, 72)), "0-7,64-71"),
        ((5, 1), "5,1"),
    ],
)
def test_ranks_in_few_words(ranks: tuple[int, ...], text: str) -> None:
    assert compact(ranks) == text
    assert expand(text) == ranks


def test_any_ranks_come_back() -> None:
    chance = random.Random(5)
    for _ in range(500):
        ranks = tuple(sorted(chance.sample(range(60), chance.randint(1, 30))))
        assert expand(compact(ranks)) == ranks


def test_the_ranks_of_every_axis_of_a_large_layout_fit_into_a_line() -> None:
    layout = Layout(pp=16, dp=128, tp=8)
    for axes in (("pp",), ("dp",), ("tp",), ("dp", "cp"), ("pp", "dp", "cp", "tp")):
        ranks = layout.ranks_along(axes, 9_999)
        assert expand(compact(ranks)) == ranks
        assert len(compact(ranks)) < 40
    assert len(compact(layout.ranks_along(("pp", "tp"), 9_999))) < 200


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (Call(Channel((2, 3)), 57, "tp", "all_reduce", 8192), "all_reduce 57 over tp (ranks 2-3), 8.0 KiB"),
        (
            Call(Channel((1, 0), messages=True), 7, "pp", "message", 100),
            "message 7 over pp from rank 1 to rank 0, 100 B",
        ),
        (Call(Channel((0, 1, 2)), 1, "world", "barrier", 0), "barrier 1 over world (ranks 0-2)"),
    ],
)
def test_a_collective_in_words(call: Call, text: str) -> None:
    assert str(call) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text
