"""Oracle: the three products of a linear layer, written out in float64 with operands rounded by the OCP definition."""

import pytest
import torch
from torch import Tensor

from megalm.mesh import Axis
from megalm.parallel.tensor import eight_bit
from megalm.parallel.tensor.eight_bit import EightBitRounding
from megalm.parallel.tensor.linear import ColumnParallelLinear, RowParallelLinear, column_products
from megalm.weight_half import WeightHalf
from tests.models.live_storages import LiveStorages
from tests.parallel.sums import give_sum, sum_of
from tests.parallel.tensor.ocp_formats import E4M3, E5M2

TOKENS, HIDDEN, INNER = 21, 10, 35
Layer = ColumnParallelLinear | RowParallelLinear


def random(*shape: int, seed: int, factor: float = 1.0) -> Tensor:
    """Draw numbers that are exact in bfloat16, so that every dtype sees the same."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * factor
    return drawn.bfloat16().double()


def layer_of(kind: type[Layer], dtype: torch.dtype, *, seed: int = 0, out: int = INNER) -> Layer:
    layer = kind(HIDDEN, out, Axis.alone("tp")).to(dtype)
    layer.rounding = EightBitRounding()
    assert layer.bias is not None
    layer.weight.data.copy_(random(out, HIDDEN, seed=seed + 1, factor=0.02))
    layer.bias.data.copy_(random(out, seed=seed + 2))
    return layer


def check(found: Tensor | None, wanted: Tensor, dtype: torch.dtype, rounded_to: torch.dtype | None = None) -> None:
    """Compare with what is rounded once, to the dtype of the result if to no other, after sums of some 30 products."""
    assert found is not None
    assert found.dtype == dtype
    sums = 2**-40 if dtype == torch.float64 else 2**-20
    rounding = 2**-8 if (rounded_to or dtype) == torch.bfloat16 else 0
    torch.testing.assert_close(found.double(), wanted, rtol=rounding + sums, atol=sums * float(wanted.abs().max()))


@pytest.fixture(params=["rounded operands", "scaled product"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let the products be made as on a CPU, and as on a GPU, by torch's scaled product, which a CPU has too."""
    on_units: bool = request.param == "scaled product"
    monkeypatch.setattr(eight_bit, "multiplies_8_bits", lambda device: on_units)
    return on_units


@pytest.mark.parametrize("kind", [ColumnParallelLinear, RowParallelLinear])
@pytest.mark.parametrize("summed", [False, True])
def test_forward_is_e4m3_and_the_gradient_in_the_backward_is_e5m2(
    kind: type[Layer], summed: bool, native: bool
) -> None:
    dtype = torch.bfloat16 if native or summed else torch.float64
    layer = layer_of(kind, dtype)
    assert layer.bias is not None
    if summed:
        for parameter in (layer.weight, layer.bias):
            give_sum(parameter, torch.zeros_like(parameter.data, dtype=torch.float32))
    x = random(TOKENS, HIDDEN, seed=3, factor=5).to(dtype).requires_grad_()
    dy = random(TOKENS, INNER, seed=4, factor=1e-6).to(dtype)
    out = layer(x)
    out.backward(dy)
    x_read, weight, gradient = E4M3.rounded(x.detach()), E4M3.rounded(layer.weight.detach()), E5M2.rounded(dy)
    check(out.detach(), x_read @ weight.t() + layer.bias.detach().double(), dtype)
    check(x.grad, gradient @ weight, dtype)
    sums = torch.float32 if summed else dtype
    check(sum_of(layer.weight) if summed else layer.weight.grad, gradient.t() @ x_read, sums)
    check(sum_of(layer.bias) if summed else layer.bias.grad, dy.double().sum(0), sums, rounded_to=dtype)


def test_several_layers_of_the_same_rows_add_their_input_gradients_wide(native: bool) -> None:
    layers = [layer_of(ColumnParallelLinear, torch.bfloat16, seed=10 * n, out=INNER + n) for n in range(3)]
    x = random(TOKENS, HIDDEN, seed=3).bfloat16().requires_grad_()
    outs = column_products(x, [layer for layer in layers if isinstance(layer, ColumnParallelLinear)])
    gradients = [random(*out.shape, seed=5 + n).bfloat16() for n, out in enumerate(outs)]
    torch.autograd.backward(outs, gradients)
    parts = [
        E5M2.rounded(dy) @ E4M3.rounded(layer.weight.detach()) for dy, layer in zip(gradients, layers, strict=True)
    ]
    check(x.grad, torch.stack(parts).sum(0), torch.bfloat16)


def test_weight_products_put_off_are_the_same_and_hold_no_wider_gradient(native: bool) -> None:
    found = []
    for later in (False, True):
        layer = layer_of(ColumnParallelLinear, torch.bfloat16)
        give_sum(layer.weight, torch.zeros_like(layer.weight.data, dtype=torch.float32))
        half = WeightHalf()
        layer.weight.weight_half = half  # type: ignore[attr-defined]
        x = random(TOKENS, HIDDEN, seed=3).bfloat16().requires_grad_()
        out, dy = layer(x), random(TOKENS, INNER, seed=4).bfloat16()
        if later:
            with half.put_off() as work, LiveStorages() as live:
                out.backward(dy)
            assert x.grad is not None
            del out, dy
            kept = live.bytes_beside(x.grad, *(p.grad for p in layer.parameters() if p.grad is not None))
            assert kept == TOKENS * INNER * (1 if native else 2) + (
                4 if native else 0
            )  # codes and their unit, or 16 bits
            assert not sum_of(layer.weight).any()
            for each in work:
                each()
        else:
            out.backward(dy)
        found.append(sum_of(layer.weight))
    assert found[0].any()
    assert torch.equal(*found)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_rows_that_are_not_finite_show_forward_and_gradients_backward(bad: float, native: bool) -> None:
    layer = layer_of(RowParallelLinear, torch.bfloat16)
    x = random(TOKENS, HIDDEN, seed=3).bfloat16().requires_grad_()
    out, dy = layer(x), random(TOKENS, INNER, seed=4).bfloat16()
    dy[3, 4] = bad
    out.backward(dy)
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert not x.grad[3].isfinite().any()
    assert not layer.weight.grad[4].isfinite().any()
    x.data[1, 2] = bad
    assert not layer(x)[1].isfinite().any()


def test_a_rank_without_outputs_multiplies_nothing(native: bool) -> None:
    layer = layer_of(ColumnParallelLinear, torch.bfloat16, out=0)
    x = random(TOKENS, HIDDEN, seed=3).bfloat16().requires_grad_()
    out = layer(x)
    assert out.shape == (TOKENS, 0)
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    assert not x.grad.any()
