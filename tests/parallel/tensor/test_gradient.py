"""Oracle: the products and sums written out."""

import pytest
import torch

from megalm.parallel.tensor.gradient import add_gradient, add_product, gradient_sum
from tests.parallel.sums import give_sum
from tests.parallel.tensor.memory import LargeTensors
from tests.parallel.tensor.slices import random


def test_without_a_buffer_the_gradient_is_given_to_autograd() -> None:
    weight, dy, x = random(3, 2), random(5, 3, seed=1), random(5, 2, seed=2)
    assert gradient_sum(weight) is None
    product = add_product(weight, dy, x)
    assert product is not None
    torch.testing.assert_close(product, torch.einsum("to,ti->oi", dy, x))
    assert add_gradient(weight, product) is product


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_buffer_sums_what_comes_and_autograd_gets_nothing(dtype: torch.dtype) -> None:
    weight, dy, x = random(3, 2), random(5, 3, seed=1), random(5, 2, seed=2)
    total = give_sum(weight, torch.ones(3, 2, dtype=dtype))
    assert add_product(weight, dy, x) is None
    assert add_gradient(weight, weight) is None
    assert gradient_sum(weight) is total
    torch.testing.assert_close(total, (1 + torch.einsum("to,ti->oi", dy, x) + weight).to(dtype))


def test_a_product_needs_no_temporary_of_the_weights_size() -> None:
    weight = torch.empty(64, 48)
    total = give_sum(weight, torch.zeros(64, 48))
    dy, x = torch.ones(2, 64), torch.ones(2, 48)
    with LargeTensors(64 * 48) as made:
        add_product(weight, dy, x)
    assert made.peak == 0
    assert (total == 2).all()
