"""Oracle: torch.optim.SGD, one parameter, both with torch's fused kernel and with its plain loop."""

import pytest
import torch

from megalm.optim.config import OptimizerConfig
from megalm.optim.sgd import Sgd


def draws(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(37, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def both(
    *, momentum: float, steps: int, dtype: torch.dtype, decay: bool, fused: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return values and what is kept after the steps: torch's, and ours."""
    parameter = torch.nn.Parameter(draws(0, dtype))
    plain = torch.optim.SGD(
        [parameter], momentum=momentum, weight_decay=0.3 if decay else 0.0, fused=fused, foreach=False
    )
    values = draws(0, dtype)
    rule = Sgd(OptimizerConfig(momentum=momentum, weight_decay=0.3))
    state = {name: torch.zeros_like(values) for name in rule.state_names}
    for step in range(1, steps + 1):
        parameter.grad = draws(step, dtype)
        plain.param_groups[0]["lr"] = 0.01 * step
        plain.step()
        gradients = draws(step, dtype)
        rule.update(values, gradients, state, lr=0.01 * step, decay=decay, step=step)
        assert torch.equal(gradients, draws(step, dtype))
    kept = plain.state[parameter].get("momentum_buffer")
    return [parameter.detach(), *([] if kept is None else [kept])], [values, *state.values()]


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("decay", [True, False])
def test_20_steps_in_float64_are_torchs(momentum: float, decay: bool) -> None:
    wanted, found = both(momentum=momentum, steps=20, dtype=torch.float64, decay=decay, fused=False)
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_torchs_fused_kernel_bit_for_bit(dtype: torch.dtype) -> None:
    wanted, found = both(momentum=0.8, steps=5, dtype=dtype, decay=True, fused=True)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_without_momentum_nothing_is_kept() -> None:
    assert Sgd(OptimizerConfig(momentum=0.0)).state_names == ()
    assert Sgd(OptimizerConfig()).state_names == ("momentum_buffer",)
