"""Oracle: the same run in float32, and the same run in 8 bits on one process."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from megalm.errors import TrainingError, UserError
from megalm.ledger import Ledger
from megalm.mesh import Axis, Mesh
from megalm.models.decoder import Decoder
from megalm.parallel.tensor import eight_bit, linear
from megalm.parallel.tensor.eight_bit import EightBitRounding
from megalm.parallel.tensor.linear import RowParallelLinear
from megalm.parallel.tensor.product import Unrounded
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.loop import train_on
from megalm.training.precision import choose_rounding, told
from megalm.training.step import train_step
from tests.parallel.tensor.ocp_formats import E4M3, E5M2
from tests.ranks import RankContext, RankPool
from tests.training.test_precision import losses
from tests.verify.runs import GPT2, LLAMA, NEOX, run_file, windows_of

WIDE_STEPS, STEPS = 50, 8
E4M3_EPS, BF16_EPS = (torch.finfo(dtype).eps for dtype in (torch.float8_e4m3fn, torch.bfloat16))

SECOND_ORDER = (E4M3_EPS / 2) ** 2
"""Rounding errors of either sign cancel to first order in a loss over many tokens."""

ORDER_OF_SUMS = SECOND_ORDER * BF16_EPS / E4M3_EPS
"""A sum in another order moves a 16-bit result by one rounding, and that only one in so many of those to 8 bits."""


def config_of(model: str, precision: str, steps: int, **sections: Any) -> RunConfig:
    train = {"precision": precision, "micro_batch_size": 6, "steps": steps, **sections.pop("train", {})}
    return run_file(model, train=train, optimizer={"lr": 2e-3}, **sections)


def differences(found: list[float], wanted: list[float]) -> list[float]:
    return [abs(a / b - 1) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("model", [GPT2, LLAMA])
def test_50_steps_stay_close_to_those_of_float32(ranks: RankPool, model: str) -> None:
    (wide,) = ranks.run(1, losses, config_of(model, "fp32", WIDE_STEPS))
    (narrow,) = ranks.run(1, losses, config_of(model, "fp8", WIDE_STEPS))
    assert 0 < max(differences(narrow, wide)) < SECOND_ORDER
    assert wide[0] - wide[-1] > 4 * SECOND_ORDER  # it learns, by more than the rounding


class ByDefinition:
    """Rounds operands by looking among the values of the formats."""

    def operand(self, tensor: Tensor) -> Tensor:
        return E4M3.rounded(tensor).to(tensor.dtype)

    def gradient(self, tensor: Tensor) -> Tensor:
        return E5M2.rounded(tensor).to(tensor.dtype)


def _by_definition() -> Any:
    """Operands are rounded by the oracle."""
    return mock.patch.multiple(EightBitRounding, operand=ByDefinition.operand, gradient=ByDefinition.gradient)


def _gradients_in_e4m3() -> Any:
    """Gradients are rounded to the narrower range."""
    return mock.patch.object(EightBitRounding, "gradient", EightBitRounding.operand)


def _no_scale() -> Any:
    """Tensors are rounded as they are."""
    return mock.patch.object(eight_bit, "scales", return_value=(torch.ones(()), torch.ones(())))


def _scale_not_taken_back() -> Any:
    """Products are not divided by the scales."""
    original = eight_bit.scales
    return mock.patch.object(
        eight_bit, "scales", lambda tensor, form: (original(tensor, form)[0], original(tensor, form)[1] / 2)
    )


def _weight_gradient_of_wide_rows() -> Any:
    """The product that makes a weight's gradient reads rows that were not rounded."""
    original = linear.WeightProducts.__call__

    def call(self: linear.WeightProducts) -> dict[Tensor, Tensor | None]:
        return original(replace(self, rounding=Unrounded()))

    return mock.patch.object(linear.WeightProducts, "__call__", call)


def patched(context: RankContext, config: RunConfig, patch: Callable[[], Any]) -> list[float]:
    with patch():
        return losses(context, config)


@pytest.mark.parametrize("model", [GPT2, LLAMA])
def test_a_run_multiplies_what_the_definition_says_to_the_bit(ranks: RankPool, model: str) -> None:
    config = config_of(model, "fp8", 3)
    assert ranks.run(1, losses, config) == ranks.run(1, patched, config, _by_definition)


@pytest.mark.parametrize("fault", [_gradients_in_e4m3, _no_scale, _scale_not_taken_back, _weight_gradient_of_wide_rows])
def test_planted_faults_are_seen(ranks: RankPool, fault: Callable[[], Any]) -> None:
    config = config_of(GPT2, "fp8", 3)
    assert ranks.run(1, patched, config, fault) != ranks.run(1, patched, config, _by_definition)


@pytest.fixture(scope="module")
def alone(ranks: RankPool) -> Mapping[str, list[float]]:
    """The losses of one process, by model."""
    return {model: ranks.run(1, losses, config_of(model, "fp8", STEPS))[0] for model in (GPT2, LLAMA, NEOX)}


@pytest.mark.parametrize(
    ("model", "sections"),
    [
        (LLAMA, {"train": {"micro_batch_size": 4}}),
        (NEOX, {"layout": {"tp": 2}, "tensor": {"sequence_parallel": True}}),
        (GPT2, {"layout": {"tp": 2}, "recompute": {"mode": "full"}, "tensor": {"sequence_parallel": True}}),
        # a weight in a bucket lies at another address, by which some processors choose another order of the sum
        (GPT2, {"layout": {"dp": 2}, "zero": {"stage": 3}}),
    ],
)
def test_sums_in_another_order_change_the_losses_by_their_rounding(
    ranks: RankPool, alone: Mapping[str, list[float]], model: str, sections: dict[str, Any]
) -> None:
    config = config_of(model, "fp8", STEPS, **sections)
    for found in ranks.run(config.layout.world_size, losses, config):
        assert max(differences(found, alone[model])) < ORDER_OF_SUMS


@pytest.mark.parametrize(
    ("model", "sections"),
    [
        (GPT2, {"recompute": {"mode": "full"}}),
        (LLAMA, {"recompute": {"mode": "selective", "operations": ["attention_core", "activation", "norm"]}}),
        (NEOX, {"pipeline": {"schedule": "zb-h1"}}),
        (LLAMA, {"layout": {"pp": 2}, "pipeline": {"schedule": "zb-h1"}}),
        (GPT2, {"layout": {"pp": 2}, "recompute": {"mode": "full"}}),
        (LLAMA, {"layout": {"dp": 2}}),
    ],
)
def test_what_is_computed_elsewhere_later_or_again_is_the_same_to_the_bit(
    ranks: RankPool, alone: Mapping[str, list[float]], model: str, sections: dict[str, Any]
) -> None:
    config = config_of(model, "fp8", STEPS, **sections)
    assert ranks.run(config.layout.world_size, losses, config) == [alone[model]] * config.layout.world_size


def test_the_linear_layers_of_the_blocks_round_and_nothing_else() -> None:
    with torch.device("meta"):
        model = Decoder(run_file(LLAMA).model, Axis.alone("tp"))
    choose_rounding("fp8", model)
    rounding = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(getattr(module, "rounding", None), EightBitRounding)
    }
    assert rounding == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16", "fp16"])
def test_other_precisions_round_nothing(precision: str) -> None:
    layer = RowParallelLinear(3, 4, Axis.alone("tp"))
    choose_rounding(precision, layer)
    assert not isinstance(layer.rounding, EightBitRounding)
    assert told(precision, torch.device("cpu")) is None


def test_a_model_without_linear_layers_of_ours_is_refused() -> None:
    with pytest.raises(UserError, match=r"^train\.precision=fp8 has no effect: the model has none of the layers"):
        choose_rounding("fp8", nn.Linear(2, 2))


def test_a_device_without_8_bit_units_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    without = told("fp8", device)
    assert without is not None
    assert "multiplies no 8-bit operands" in without
    monkeypatch.setattr("megalm.training.precision.multiplies_8_bits", lambda device: True)
    assert told("fp8", device) != without


def test_the_log_of_a_run_says_so(tmp_path: Path) -> None:
    config = config_of(LLAMA, "fp8", 1, run={"dir": str(tmp_path)}, checkpoint={"every": 0})
    train_on(config, Mesh.alone(ledger=Ledger()), "alone")
    assert told("fp8", torch.device("cpu")) in (tmp_path / "log.txt").read_text().splitlines()


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_weight_that_is_not_finite_ends_the_run(bad: float) -> None:
    config = config_of(LLAMA, "fp8", 1)
    state = build_state(config, Mesh.alone())
    state.model.get_parameter("model.layers.1.mlp.down_proj.weight").data[3, 5] = bad
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    with pytest.raises(TrainingError, match=r"^step 1: loss nan, and the gradient of \S+ is not finite; lower"):
        train_step(state, feed.training_step(0))


@pytest.mark.parametrize(("backend", "stage"), [("fsdp2", 3), ("deepspeed", 1), ("fairscale", 3)])
def test_other_engines_have_no_8_bits(backend: str, stage: int) -> None:
    with pytest.raises(UserError, match=rf"^zero\.backend={backend} does not work with train\.precision=fp8; set"):
        run_file(LLAMA, layout={"dp": 2}, zero={"backend": backend, "stage": stage}, train={"precision": "fp8"})
