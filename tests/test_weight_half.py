"""Oracle: the list of what was put off, by hand."""

import pytest
import torch

from megalm.weight_half import WeightHalf, put_off


def test_products_are_put_off_within_the_context_only() -> None:
    half, weight = WeightHalf(), torch.ones(1)
    done: list[str] = []
    weight.weight_half = half  # type: ignore[attr-defined]
    assert not put_off([weight], lambda: done.append("before"))
    with half.put_off() as waiting:
        assert put_off([torch.ones(1), weight], lambda: done.append("within"))
        assert half.is_putting_off
    assert not put_off([weight], lambda: done.append("after"))
    assert done == []
    for work in waiting:
        work()
    assert done == ["within"]


def test_a_weight_outside_an_engine_is_never_put_off() -> None:
    with WeightHalf().put_off() as waiting:
        assert not put_off([torch.ones(1)], lambda: None)
        assert not put_off([], lambda: None)
    assert waiting == []


def fail_within(half: WeightHalf) -> None:
    with half.put_off():
        raise ValueError("in the middle")


def test_an_error_ends_the_putting_off() -> None:
    half = WeightHalf()
    with pytest.raises(ValueError, match="in the middle"):
        fail_within(half)
    assert not half.is_putting_off
