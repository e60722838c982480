"""Oracle: the OCP definition of the 8-bit floats, code by code, and products in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megalm.parallel.tensor.eight_bit import EightBit, multiplies_8_bits, rounded, scales
from tests.parallel.tensor.ocp_formats import E4M3, E5M2, FORMATS, Format


@pytest.mark.parametrize("ocp", FORMATS)
def test_every_code_stands_for_what_the_definition_says(ocp: Format) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(ocp.form)
    wanted = torch.tensor([ocp.value(code) for code in range(256)])
    torch.testing.assert_close(codes.float(), wanted, rtol=0, atol=0, equal_nan=True)
    assert ocp.values()[-1] == torch.finfo(ocp.form).max


def borders(ocp: Format) -> Tensor:
    """Return all values, what lies halfway between neighbours, and what lies just beside that, of both signs."""
    values = torch.tensor(ocp.values(), dtype=torch.float64)
    halves = (values[1:] + values[:-1]) / 2
    entries = torch.cat([values, halves, halves * (1 - 2**-20), halves * (1 + 2**-20)])
    return torch.cat([entries, -entries])


@pytest.mark.parametrize("ocp", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 2.0**-100, 3 * 2.0**-30, 2.0**90, 1.3])
def test_entries_go_to_the_nearest_value_and_ties_to_the_even_code(
    ocp: Format, dtype: torch.dtype, factor: float
) -> None:
    tensor = (borders(ocp) * factor).to(dtype)
    found = rounded(tensor, ocp.form)
    assert found.dtype == dtype
    assert torch.equal(found.double(), ocp.rounded(tensor))
    kept = EightBit.of(tensor.unsqueeze(0), ocp.form)
    assert float(kept.unit) == 1 / ocp.scale(tensor)
    assert torch.equal(kept.codes.double() / ocp.scale(tensor), ocp.rounded(tensor).unsqueeze(0))


@pytest.mark.parametrize("ocp", FORMATS)
def test_the_scale_is_the_largest_power_of_two_that_overflows_nothing(ocp: Format) -> None:
    top = ocp.values()[-1]
    for largest in (top, top * (1 + 2**-23), top * (1 - 2**-24), 1.0, 0.75, 0.02, 3e38):
        tensor = torch.tensor([0.0, -largest])
        assert [float(each) for each in scales(tensor, ocp.form)] == [ocp.scale(tensor), 1 / ocp.scale(tensor)]
    for nothing in (torch.zeros(3), torch.empty(0, 4)):
        assert [float(each) for each in scales(nothing, ocp.form)] == [1, 1]


@pytest.mark.parametrize("ocp", FORMATS)
def test_a_scale_and_its_inverse_are_normal_numbers(ocp: Format) -> None:
    tensor = torch.tensor([1e-40, -1e-45, 0.0])
    assert [float(each) for each in scales(tensor, ocp.form)] == [2.0**126, 2.0**-126]
    assert torch.equal(rounded(tensor, ocp.form).double(), ocp.rounded(tensor, 2.0**126))


@pytest.mark.parametrize("ocp", FORMATS)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_not_finite_makes_nothing_finite(ocp: Format, bad: float, dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1.0, bad], [-2.0, 0.0]], dtype=dtype)
    assert rounded(tensor, ocp.form).isnan().all()
    assert EightBit.of(tensor, ocp.form).times(EightBit.of(torch.eye(2, dtype=dtype), E4M3.form), dtype).isnan().all()


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(0, 2**32),
    st.integers(1, 6).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, rows))),
    st.floats(-12, 12),
)
def test_a_cut_tensor_is_rounded_as_the_whole_but_for_entries_far_below_the_largest(
    ocp: Format, seed: int, cut: tuple[int, int], spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, first = cut
    whole = torch.randn(rows, 8, generator=generator) * torch.exp(spread * torch.rand(rows, 8, generator=generator))
    whole = whole.bfloat16()
    of_whole = rounded(whole, ocp.form)
    of_parts = torch.cat([rounded(part, ocp.form) for part in (whole[:first], whole[first:])])
    largest, top = float(whole.abs().max()), ocp.values()[-1]
    border = 2 * largest * ocp.smallest_normal / top
    normal = whole.abs() >= border
    assert torch.equal(of_whole[normal], of_parts[normal])
    spacing = border * 2.0**-ocp.fraction_bits
    assert ((of_whole - of_parts).abs() <= spacing).all()
    assert border <= largest * {E4M3: 2.0**-13, E5M2: 2.0**-28}[ocp]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def as_strict_as_a_gpu(scaled_mm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def strict(left: Tensor, right: Tensor, **named: Any) -> Tensor:
        assert all(size and size % 16 == 0 for size in (*left.shape, *right.shape))
        assert left.stride() == (left.shape[1], 1)
        assert right.stride() == (1, right.shape[0])
        assert E5M2.form not in (left.dtype, right.dtype) or left.dtype != right.dtype
        assert all(named[scale].dtype == torch.float32 for scale in ("scale_a", "scale_b"))
        assert named["bias"] is None or named["bias"].dtype == named["out_dtype"] == torch.bfloat16
        return scaled_mm(left, right, **named)

    return strict


@pytest.mark.parametrize(("n", "k", "m"), [(16, 32, 48), (1, 16, 1), (5, 37, 3), (17, 1, 33), (0, 5, 4), (4, 0, 5)])
@pytest.mark.parametrize("ocp", FORMATS)
def test_scaled_products_are_those_of_the_rounded_operands(
    n: int, k: int, m: int, ocp: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU torch's scaled product is made in float32, of any sizes; what a GPU's would refuse is refused here."""
    monkeypatch.setattr(torch, "_scaled_mm", as_strict_as_a_gpu(torch._scaled_mm))
    a, b, bias = random(n, k, seed=1) * 3, random(k, m, seed=2) / 7, random(m, seed=3)
    exact = rounded(a, ocp.form).double() @ rounded(b, E4M3.form).double()
    left, right = EightBit.of(a, ocp.form), EightBit.of(b, E4M3.form)
    found = left.times(right, torch.float32)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    transposed = EightBit.of(a.t(), ocp.form).t().times(EightBit.of(b.t(), E4M3.form).t(), torch.float32)
    torch.testing.assert_close(transposed, found, rtol=0, atol=0)
    with_bias = left.times(right, torch.bfloat16, bias)
    assert with_bias.dtype == torch.bfloat16
    torch.testing.assert_close(with_bias.double(), exact + bias.double(), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "cuda", "capability", "wanted"),
    [
        ("cpu", "13.0", (9, 0), False),
        ("cuda", "13.0", (8, 0), False),
        ("cuda", "13.0", (8, 9), True),
        ("cuda", "13.0", (9, 0), True),
        ("cuda", "13.0", (10, 0), True),
        ("cuda", None, (9, 4), False),  # AMD's units have formats of their own
    ],
)
def test_which_devices_multiply_8_bits(
    device: str, cuda: str | None, capability: tuple[int, int], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert multiplies_8_bits(torch.device(device)) is wanted
