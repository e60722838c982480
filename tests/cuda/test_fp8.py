"""Oracle: products in float64 of the operands that a CPU rounds, and the same run with its operands rounded only.

A Hopper tensor core adds 8-bit products with some 14 bits before they join a float32 sum, so bounds of sums are 2^-12
of what is added up, signs left out.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megalm.mesh import Axis, Mesh
from megalm.parallel.tensor import eight_bit
from megalm.parallel.tensor.eight_bit import E4M3, E5M2, EightBit, EightBitRounding, multiplies_8_bits, rounded
from megalm.parallel.tensor.linear import ColumnParallelLinear
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.step import train_step
from tests.parallel.sums import give_sum, sum_of
from tests.verify.runs import GPT2, LLAMA, run_file, windows_of

CUDA = torch.device("cuda", 0)
SUMS = 2**-12

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and multiplies_8_bits(CUDA)), reason="needs a GPU with 8-bit products"
)


def random(*shape: int, seed: int, factor: float = 1.0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * factor
    return drawn.bfloat16()


@pytest.mark.parametrize("form", [E4M3, E5M2])
@pytest.mark.parametrize("factor", [1.0, 1e-6, 1e-30, 3e35])
def test_a_gpu_rounds_as_a_cpu(form: torch.dtype, factor: float) -> None:
    tensor = random(300, 70, seed=1) * factor
    tensor[0, :3] = torch.tensor([0.0, -0.0, factor * 1e-3])
    assert torch.equal(rounded(tensor.to(CUDA), form).cpu(), rounded(tensor, form))
    on_cpu, on_gpu = EightBit.of(tensor, form), EightBit.of(tensor.to(CUDA), form)
    assert torch.equal(on_gpu.unit.cpu(), on_cpu.unit)
    assert torch.equal(on_gpu.codes.view(torch.uint8).cpu(), on_cpu.codes.view(torch.uint8))


@pytest.mark.parametrize("form", [E4M3, E5M2])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_makes_nothing_finite(form: torch.dtype, bad: float) -> None:
    tensor = random(16, 32, seed=1)
    tensor[3, 4] = bad
    made = EightBit.of(tensor.to(CUDA), form).times(EightBit.of(random(32, 16, seed=2).to(CUDA), E4M3), torch.bfloat16)
    assert made.isnan().all()


@pytest.mark.parametrize(("n", "k", "m"), [(64, 128, 32), (16, 16, 16), (1, 16, 1), (5, 37, 3), (1000, 777, 130)])
@pytest.mark.parametrize("form", [E4M3, E5M2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scaled_products_are_those_of_the_rounded_operands(
    n: int, k: int, m: int, form: torch.dtype, dtype: torch.dtype
) -> None:
    a, b = random(n, k, seed=1, factor=1e-7), random(k, m, seed=2, factor=30)
    left, right = rounded(a, form).double(), rounded(b, E4M3).double()
    exact, added_up = left @ right, left.abs() @ right.abs()
    on_gpu, other = a.to(CUDA), b.to(CUDA)
    rounding = 2**-8 if dtype == torch.bfloat16 else 0
    for found in (
        EightBit.of(on_gpu, form).times(EightBit.of(other, E4M3), dtype),
        EightBit.of(on_gpu.t().contiguous(), form).t().times(EightBit.of(other.t().contiguous(), E4M3).t(), dtype),
    ):
        assert found.dtype == dtype
        assert ((found.cpu().double() - exact).abs() <= rounding * exact.abs() + SUMS * added_up).all()


def test_a_bias_is_added_before_the_rounding() -> None:
    a, b, bias = random(40, 48, seed=1), random(48, 21, seed=2), random(21, seed=3, factor=100)
    made = EightBit.of(a.to(CUDA), E4M3).times(EightBit.of(b.to(CUDA), E4M3), torch.bfloat16, bias.to(CUDA))
    left, right = rounded(a, E4M3).double(), rounded(b, E4M3).double()
    exact = left @ right + bias.double()
    bound = 2**-8 * exact.abs() + SUMS * (left.abs() @ right.abs())
    assert ((made.cpu().double() - exact).abs() <= bound).all()


def of_a_layer(device: torch.device) -> list[Tensor]:
    """Return output, input gradient and weight's and bias's gradient sums of one layer."""
    layer = ColumnParallelLinear(96, 200, Axis.alone("tp")).to(device, torch.bfloat16)
    layer.rounding = EightBitRounding()
    assert layer.bias is not None
    layer.weight.data.copy_(random(200, 96, seed=1, factor=0.02))
    layer.bias.data.copy_(random(200, seed=2))
    for parameter in (layer.weight, layer.bias):
        give_sum(parameter, torch.zeros_like(parameter.data, dtype=torch.float32))
    x = random(130, 96, seed=3).to(device).requires_grad_()
    out = layer(x)
    out.backward(random(130, 200, seed=4, factor=1e-5).to(device))
    assert x.grad is not None
    return [tensor.detach().cpu().double() for tensor in (out, x.grad, sum_of(layer.weight), sum_of(layer.bias))]


def test_a_layer_on_a_gpu_is_that_of_a_cpu() -> None:
    for found, wanted in zip(of_a_layer(CUDA), of_a_layer(torch.device("cpu")), strict=True):
        torch.testing.assert_close(found, wanted, rtol=2**-7, atol=2**-7 * float(wanted.abs().max()))


def losses(config: RunConfig) -> list[float]:
    state = build_state(config, Mesh.build(config.layout, CUDA))
    state.model.train()
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    return [train_step(state, feed.training_step(step)).loss for step in range(config.train.steps)]


@pytest.mark.parametrize("model", [GPT2, LLAMA])
@pytest.mark.parametrize("sections", [{}, {"recompute": {"mode": "full"}}, {"train": {"micro_batch_size": 4}}])
def test_a_run_on_8_bit_units_has_the_losses_of_rounded_operands(
    model: str, sections: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"precision": "fp8", "micro_batch_size": 6, "steps": 50}
    config = run_file(model, optimizer={"lr": 2e-3}, **{**sections, "train": {**train, **sections.get("train", {})}})
    calls = counted(monkeypatch)
    on_units = losses(config)
    assert calls
    monkeypatch.setattr(eight_bit, "multiplies_8_bits", lambda device: False)
    seen = len(calls)
    only_rounded = losses(config)
    assert len(calls) == seen
    assert max(abs(a / b - 1) for a, b in zip(on_units, only_rounded, strict=True)) < 2**-8


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each scaled product."""
    calls: list[int] = []
    original: Callable[..., Tensor] = torch._scaled_mm

    def scaled_mm(*arguments: object, **named: object) -> Tensor:
        calls.append(1)
        return original(*arguments, **named)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    return calls
