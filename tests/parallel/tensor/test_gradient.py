"""Oracle: the products and sums written out."""

import pytest
import torch

from megalm.parallel.tensor.gradient import add_product, add_row_sums, gradient_sum
from tests.parallel.sums import give_sum
from tests.parallel.tensor.memory import LargeTensors
from tests.parallel.tensor.slices import random


def test_without_a_buffer_the_gradient_is_given_to_autograd() -> None:
    weight, dy, x = random(3, 2), random(5, 3, seed=1), random(5, 2, seed=2)
    assert gradient_sum(weight) is None
    product = add_product(weight, dy, x)
    assert product is not None
    torch.testing.assert_close(product, torch.einsum("to,ti->oi", dy, x))
    sums = add_row_sums(torch.zeros(3), dy)
    assert sums is not None
    torch.testing.assert_close(sums, dy.T @ torch.ones(5, dtype=dy.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_buffer_sums_what_comes_and_autograd_gets_nothing(dtype: torch.dtype) -> None:
    weight, bias, dy, x = random(3, 2), random(3), random(5, 3, seed=1), random(5, 2, seed=2)
    total = give_sum(weight, torch.ones(3, 2, dtype=dtype))
    sums = give_sum(bias, torch.ones(3, dtype=dtype))
    assert add_product(weight, dy, x) is None
    assert add_row_sums(bias, dy) is None
    assert gradient_sum(weight) is total
    torch.testing.assert_close(total, (1 + torch.einsum("to,ti->oi", dy, x)).to(dtype))
    torch.testing.assert_close(sums, (1 + torch.einsum("to->o", dy)).to(dtype))


def test_sums_of_16_bit_rows_are_not_rounded_in_between() -> None:
    """Oracle: 1 + 2^-8 has no 16-bit form of 8 digits."""
    bias = torch.zeros(1)
    sums = give_sum(bias, torch.zeros(1))
    add_row_sums(bias, torch.tensor([[1.0], [2.0**-8]], dtype=torch.bfloat16))
    assert sums.item() == 1 + 2**-8


def test_a_product_needs_no_temporary_of_the_weights_size() -> None:
    weight = torch.empty(64, 48)
    total = give_sum(weight, torch.zeros(64, 48))
    dy, x = torch.ones(2, 64), torch.ones(2, 48)
    with LargeTensors(64 * 48) as made:
        add_product(weight, dy, x)
    assert made.peak == 0
    assert (total == 2).all()
