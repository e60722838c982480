"""Oracle: LAMB written from the paper, one parameter at a time, in float64."""

import pytest
import torch
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.optim import layer_update
from megalm.optim.config import OptimizerConfig
from megalm.optim.lamb import Lamb
from megalm.optim.optimizer import Optimizer
from megalm.parallel.data.bucket import make_bucket
from megalm.param_spec import Init, ParamSpec
from tests.optim.drawn import draws
from tests.optim.plain_lamb import plain_lamb
from tests.parallel.sums import sum_of

CPU = torch.device("cpu")
SHAPES = ((40, 30), (30,), (3, 5, 7), (7, 9), (1, 1), (2, 6), (50,))
CONFIG = OptimizerConfig(betas=[0.8, 0.95], eps=1e-6, weight_decay=0.3)


def first_values() -> list[Tensor]:
    values = [draws(100 + n, *shape) for n, shape in enumerate(SHAPES)]
    values[3].zero_()  # its ratio is 1 in the first step
    return values


def gradient(step: int, n: int) -> Tensor:
    return draws(10 * step + n, *SHAPES[n]) * (SHAPES[n] != (2, 6))  # the values of one with gradient 0 decay


def ours(steps: int, dtype: torch.dtype, weight_decay: float = 0.3) -> list[Tensor]:
    moved = [nn.Parameter(values) for values in first_values()]
    buckets = [make_bucket(part, CPU, dtype) for part in (moved[:3], [], moved[3:])]
    rule = Lamb(CONFIG.model_copy(update={"weight_decay": weight_decay}))
    optimizer = Optimizer(rule, buckets, axes=[Axis.alone()], holders=[], positions={}, clip_grad_norm=0.0)
    for step in range(1, steps + 1):
        for n, parameter in enumerate(moved):
            sum_of(parameter).copy_(gradient(step, n))
        optimizer.step(0.01 * step)
    return [parameter.detach() for parameter in moved]


def papers(steps: int, weight_decay: float = 0.3) -> list[Tensor]:
    return [
        plain_lamb(
            values,
            [(0.01 * step, gradient(step, n)) for step in range(1, steps + 1)],
            betas=(0.8, 0.95),
            eps=1e-6,
            weight_decay=weight_decay,
        )
        for n, values in enumerate(first_values())
    ]


@pytest.mark.parametrize("piece", [32, 416, 2**19])
def test_20_steps_are_the_papers(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(layer_update, "PIECE", piece)
    torch.testing.assert_close(ours(20, torch.float64), papers(20), rtol=1e-13, atol=1e-13)


def test_a_block_may_learn_slower() -> None:
    spec = ParamSpec((4, 5), Init.given(), blocks_from_end=2)
    ours, plain = nn.Parameter(draws(1, 4, 5)), nn.Parameter(draws(1, 4, 5))
    ours.spec = spec  # type: ignore[attr-defined]
    moved = []
    for parameter, lr in ((ours, 0.4), (plain, 0.1)):
        bucket = make_bucket([parameter], CPU, torch.float64)
        optimizer = Optimizer(
            Lamb(CONFIG), [bucket], axes=[], holders=[], positions={}, layer_lr_decay=0.5, clip_grad_norm=0.0
        )
        sum_of(parameter).copy_(draws(2, 4, 5))
        optimizer.step(lr)
        moved.append(parameter.detach())
    torch.testing.assert_close(*moved, rtol=1e-15, atol=1e-15)


def test_without_decay_a_parameter_without_gradient_stays() -> None:
    found, expected = ours(3, torch.float64, weight_decay=0.0), papers(3, weight_decay=0.0)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(found[5], first_values()[5])


def test_fp32_is_the_papers_within_its_rounding() -> None:
    expected = [values.float() for values in papers(20)]
    torch.testing.assert_close(ours(20, torch.float32), expected, rtol=2e-5, atol=2e-5)


def test_the_ratio_is_1_where_a_norm_is_0() -> None:
    rule = Lamb(CONFIG)
    assert rule.ratio(3.0, 4.0) == 0.75
    assert rule.ratio(0.0, 4.0) == rule.ratio(3.0, 0.0) == rule.ratio(0.0, 0.0) == 1
