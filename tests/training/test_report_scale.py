"""Oracle: properties that any readable axis has, over random spans."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megalm.training.report_scale import Scale, readable

VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 6)), min_size=1, max_size=5)


@given(VALUES, st.booleans())
def test_an_axis_holds_its_values_and_has_a_few_round_ticks(values: list[float], from_zero: bool) -> None:
    scale = Scale.over(values, from_zero=from_zero)
    assert all(-1e-9 <= scale.position(value) <= 1 + 1e-9 for value in values)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(-1e-6 <= scale.position(tick) <= 1 + 1e-6 for tick in ticks)
    if from_zero and min(values) >= 0:
        assert scale.low == 0


@given(st.floats(1e-8, 1e3), st.floats(51, 1e9))
def test_a_wide_span_is_logarithmic_where_it_may_be(low: float, ratio: float) -> None:
    scale = Scale.over([low, low * ratio], may_be_log=True)
    assert scale.log
    assert scale.position(low) < 0.1 < 0.9 < scale.position(low * ratio)
    assert scale.position((low * low * ratio) ** 0.5) == pytest.approx(0.5)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 20
    assert ticks == sorted(ticks)
    assert not Scale.over([low, low * ratio]).log
    assert not Scale.over([0.0, low * ratio], may_be_log=True).log


def test_known_ticks() -> None:
    assert Scale(0, 10).ticks() == [0, 2, 4, 6, 8, 10]
    assert Scale(4.9, 9.1).ticks() == [5, 6, 7, 8, 9]
    assert Scale(0.4, 70, log=True).ticks() == pytest.approx([0.5, 1, 2, 5, 10, 20, 50])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (6.12341, "6.1234"),
        (2345.4, "2,345"),
        (819200, "819,200"),
        (0.001, "0.001"),
        (5e-4, "5e-04"),
        (1.5e-5, "1.5e-05"),
        (-2.5, "-2.5"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_readable(value: float, text: str) -> None:
    assert readable(value) == text
