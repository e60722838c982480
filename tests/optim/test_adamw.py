"""Oracle: torch.optim.AdamW, one parameter, both with torch's fused kernel and with its plain loop."""

import pytest
import torch

from megalm.optim.adamw import AdamW
from megalm.optim.config import OptimizerConfig

CONFIG = OptimizerConfig(betas=[0.8, 0.95], eps=1e-6, weight_decay=0.3)


def draws(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(37, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def both(*, steps: int, dtype: torch.dtype, decay: bool, fused: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return values and both moments after the steps: torch's, and ours."""
    parameter = torch.nn.Parameter(draws(0, dtype))
    plain = torch.optim.AdamW(
        [parameter],
        betas=(0.8, 0.95),
        eps=1e-6,
        weight_decay=0.3 if decay else 0.0,
        fused=fused,
        foreach=False,
    )
    values = draws(0, dtype)
    rule = AdamW(CONFIG)
    state = {name: torch.zeros_like(values) for name in rule.state_names}
    for step in range(1, steps + 1):
        parameter.grad = draws(step, dtype)
        plain.param_groups[0]["lr"] = 0.01 * step
        plain.step()
        rule.update(values, draws(step, dtype), state, lr=0.01 * step, decay=decay, step=step)
    kept = plain.state[parameter]
    return [parameter.detach(), kept["exp_avg"], kept["exp_avg_sq"]], [values, state["exp_avg"], state["exp_avg_sq"]]


@pytest.mark.parametrize("decay", [True, False])
def test_20_steps_in_float64_are_torchs(decay: bool) -> None:
    wanted, found = both(steps=20, dtype=torch.float64, decay=decay, fused=False)
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_torchs_fused_kernel_bit_for_bit(dtype: torch.dtype) -> None:
    wanted, found = both(steps=5, dtype=dtype, decay=True, fused=True)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_a_part_of_a_range_is_updated_as_the_whole_is() -> None:
    rule = AdamW(CONFIG)
    whole, parts = draws(0, torch.float64), draws(0, torch.float64)
    kept = {name: torch.zeros(37, dtype=torch.float64) for name in rule.state_names}
    part_state = {name: torch.zeros(37, dtype=torch.float64) for name in rule.state_names}
    for step in range(1, 4):
        rule.update(whole, draws(step, torch.float64), kept, lr=0.1, decay=True, step=step)
        for span in (slice(0, 5), slice(5, 5), slice(5, 36), slice(36, 37)):
            state = {name: tensor[span] for name, tensor in part_state.items()}
            rule.update(parts[span], draws(step, torch.float64)[span], state, lr=0.1, decay=True, step=step)
    torch.testing.assert_close(parts, whole, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(part_state, kept, rtol=1e-15, atol=1e-15)


def test_gradients_stay() -> None:
    rule = AdamW(CONFIG)
    gradients = draws(1, torch.float64)
    state = {name: torch.zeros(37, dtype=torch.float64) for name in rule.state_names}
    rule.update(draws(0, torch.float64), gradients, state, lr=0.1, decay=True, step=1)
    assert torch.equal(gradients, draws(1, torch.float64))
