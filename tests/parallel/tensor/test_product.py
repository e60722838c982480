"""Oracle: float64 products of the same 16-bit operands."""

import pytest
import torch

from megalm.parallel.tensor.product import HALVES, add_product_to, product, product_into, widened

DTYPES = [torch.float64, torch.float32, *HALVES]


def operands(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in ((7, 300), (300, 5), (5,))]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_is_rounded_once(dtype: torch.dtype) -> None:
    a, b, bias = operands(dtype)
    made = product(a, b, bias)
    assert made.dtype == dtype
    exact = a.double() @ b.double() + bias.double()
    torch.testing.assert_close(made.double(), exact, rtol=0.6 * torch.finfo(dtype).eps, atol=3e-5)
    torch.testing.assert_close(product(a, b).double(), exact - bias.double(), rtol=torch.finfo(dtype).eps, atol=3e-5)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_added_to_a_wider_sum_is_not_rounded(dtype: torch.dtype) -> None:
    a, b, _ = operands(dtype)
    total = torch.full((7, 5), 1000.0)
    add_product_to(total, a, b)
    torch.testing.assert_close(total.double(), 1000 + a.double() @ b.double(), rtol=1e-6, atol=0)


def test_a_sum_wider_than_what_the_device_multiplies() -> None:
    a, b, _ = operands(torch.float32)
    total = torch.zeros(7, 5, dtype=torch.float64)
    add_product_to(total, a, b)
    torch.testing.assert_close(total, (a @ b).double(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_into_wider_memory_is_rounded_to_its_dtype_only(dtype: torch.dtype) -> None:
    a, b, _ = operands(dtype)
    out = torch.full((7, 5), torch.nan, dtype=torch.promote_types(dtype, torch.float32))
    assert product_into(out, widened(a), widened(b), 0.5) is out
    torch.testing.assert_close(out.double(), 0.5 * (a.double() @ b.double()), rtol=1e-6, atol=1e-5)
