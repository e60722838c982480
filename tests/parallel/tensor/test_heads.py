"""Oracle: counting heads: each query head lies on one rank, beside the key head that it reads."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megalm.errors import UserError
from megalm.parallel.tensor.heads import HeadCut


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw (query heads, key heads, ranks)."""
    key_heads, group = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    return key_heads * group, key_heads, draw(st.integers(1, key_heads * group))


@settings(deadline=None, max_examples=60)
@given(cuts())
def test_each_query_head_lies_on_one_rank_beside_its_key_head(case: tuple[int, int, int]) -> None:
    num_heads, num_key_heads, parts = case
    cut = HeadCut.of(num_heads, num_key_heads, parts)
    query = [range(*part) for part in cut.query]
    assert [head for part in query for head in part] == list(range(num_heads))
    assert max(map(len, query)) - min(map(len, query)) <= 1
    for position, (first, last) in enumerate(cut.key):
        read = [first + local for local in cut.key_of_query(position)]
        assert read == [head * num_key_heads // num_heads for head in query[position]]
        assert set(read) == set(range(first, last))


@pytest.mark.parametrize(
    ("num_heads", "num_key_heads", "parts", "query", "key", "read"),
    [
        (6, 3, 2, ((0, 3), (3, 6)), ((0, 2), (1, 3)), [[0, 0, 1], [0, 1, 1]]),
        (5, 1, 2, ((0, 3), (3, 5)), ((0, 1), (0, 1)), [[0, 0, 0], [0, 0]]),
        (5, 1, 5, tuple((n, n + 1) for n in range(5)), ((0, 1),) * 5, [[0]] * 5),
        (5, 5, 2, ((0, 3), (3, 5)), ((0, 3), (3, 5)), [[0, 1, 2], [0, 1]]),
        (4, 2, 2, ((0, 2), (2, 4)), ((0, 1), (1, 2)), [[0, 0], [0, 0]]),
        (8, 2, 1, ((0, 8),), ((0, 2),), [[0, 0, 0, 0, 1, 1, 1, 1]]),
    ],
)
def test_cuts_as_written(
    num_heads: int,
    num_key_heads: int,
    parts: int,
    query: tuple[tuple[int, int], ...],
    key: tuple[tuple[int, int], ...],
    read: list[list[int]],
) -> None:
    cut = HeadCut.of(num_heads, num_key_heads, parts)
    assert (cut.query, cut.key) == (query, key)
    assert [cut.key_of_query(position) for position in range(parts)] == read


def test_features_of_heads() -> None:
    assert HeadCut.features(((0, 2), (1, 3)), 8) == ((0, 16), (8, 24))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ((4, 4, 5), "layout.tp=5 is more than model.num_attention_heads=4"),
        ((6, 4, 2), "model.num_key_value_heads=4 does not divide model.num_attention_heads=6"),
    ],
)
def test_what_makes_no_sense_is_refused(heads: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HeadCut.of(*heads)
