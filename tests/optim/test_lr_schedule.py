"""Oracle: torch.optim.lr_scheduler (LambdaLR, LinearLR, CosineAnnealingLR, SequentialLR) and values by hand."""

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.optim import lr_scheduler

from megalm.errors import UserError
from megalm.optim.lr_schedule import BUILT_IN, LrScheduleConfig, lr_schedule

PEAK, LOW, STEPS, WARMUP = 1e-3, 1e-4, 40, 8
NAMES = sorted(BUILT_IN)


def rates(config: LrScheduleConfig, steps: int = STEPS, peak: float = PEAK) -> list[float]:
    schedule = lr_schedule(config, peak, steps)
    return [schedule(step) for step in range(steps)]


def torch_rates(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], steps: int = STEPS) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def after_warmup(
    main: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler],
) -> Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]:
    def make(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        warmup = lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / WARMUP)
        return lr_scheduler.SequentialLR(optimizer, [warmup, main(optimizer)], [WARMUP])

    return make


def test_cosine_is_torchs() -> None:
    config = LrScheduleConfig(name="cosine", min_lr=LOW)
    wanted = torch_rates(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=LOW))
    assert rates(config) == pytest.approx(wanted, rel=1e-12)


def test_cosine_after_a_warmup_is_torchs() -> None:
    config = LrScheduleConfig(name="cosine", min_lr=LOW, warmup_steps=WARMUP)
    wanted = torch_rates(
        after_warmup(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - WARMUP, eta_min=LOW))
    )
    assert rates(config) == pytest.approx(wanted, rel=1e-12)


def test_linear_after_a_warmup_is_torchs() -> None:
    config = LrScheduleConfig(name="linear", min_lr=LOW, warmup_steps=WARMUP)
    wanted = torch_rates(
        after_warmup(
            lambda optimizer: lr_scheduler.LinearLR(
                optimizer, start_factor=1.0, end_factor=LOW / PEAK, total_iters=STEPS - WARMUP
            )
        )
    )
    assert rates(config) == pytest.approx(wanted, rel=1e-12)


def test_constant_after_a_warmup_is_torchs() -> None:
    config = LrScheduleConfig(name="constant", warmup_steps=WARMUP)
    wanted = torch_rates(after_warmup(lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0)))
    assert rates(config) == pytest.approx(wanted, rel=1e-12)


def test_wsd_by_hand() -> None:
    config = LrScheduleConfig(name="wsd", warmup_steps=4, min_lr=0.2, decay_steps=4)
    assert rates(config, 12, peak=1.0) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4])


def test_wsd_decays_over_the_last_tenth_if_not_told() -> None:
    found = rates(LrScheduleConfig(name="wsd"), 30, peak=3.0)
    assert found[:28] == [3.0] * 28
    assert found[28:] == pytest.approx([2.0, 1.0])


def test_wsd_without_decay_is_constant_and_a_longer_one_begins_after_the_warmup() -> None:
    assert rates(LrScheduleConfig(name="wsd", decay_steps=0)) == [PEAK] * STEPS
    longer = LrScheduleConfig(name="wsd", decay_steps=1000, warmup_steps=WARMUP, min_lr=LOW)
    assert rates(longer) == rates(LrScheduleConfig(name="linear", warmup_steps=WARMUP, min_lr=LOW))


def test_the_default_is_cosine_from_the_first_step_to_almost_nothing() -> None:
    found = rates(LrScheduleConfig())
    assert found[0] == PEAK
    assert found[STEPS // 2] == pytest.approx(PEAK / 2)
    assert 0 < found[-1] < 0.01 * PEAK


@pytest.mark.parametrize("name", NAMES)
def test_a_warmup_longer_than_the_run_is_its_first_part(name: str) -> None:
    config = LrScheduleConfig(name=name, warmup_steps=100, min_lr=LOW)
    assert rates(config, 10) == pytest.approx([PEAK * (step + 1) / 100 for step in range(10)])
    assert rates(LrScheduleConfig(name=name, warmup_steps=10), 10)[-1] == PEAK


@given(
    name=st.sampled_from(NAMES),
    steps=st.integers(1, 60),
    warmup_steps=st.integers(0, 80),
    share=st.floats(0, 1),
    decay_steps=st.none() | st.integers(0, 80),
)
def test_every_rate_is_usable(name: str, steps: int, warmup_steps: int, share: float, decay_steps: int | None) -> None:
    low = share * PEAK
    config = LrScheduleConfig(name=name, warmup_steps=warmup_steps, min_lr=low, decay_steps=decay_steps)
    schedule = lr_schedule(config, PEAK, steps)
    found = [schedule(step) for step in range(steps + 3)]
    assert all(0 < rate <= PEAK * (1 + 1e-12) for rate in found[:steps])
    rising, falling = found[:warmup_steps], found[max(0, warmup_steps - 1) :]
    assert rising == sorted(rising)
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(falling))
    assert all(rate >= low * (1 - 1e-12) for rate in falling)
    assert schedule(steps // 2) == found[steps // 2]  # the order of the questions does not matter


def test_a_floor_above_the_peak_is_refused() -> None:
    with pytest.raises(UserError, match=r"lr_schedule.min_lr=0.01 is above optimizer.lr=0.001"):
        lr_schedule(LrScheduleConfig(min_lr=0.01), PEAK, STEPS)
    assert rates(LrScheduleConfig(min_lr=PEAK)) == pytest.approx([PEAK] * STEPS)


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"lr_schedule.name: 'cosin' is not known; did you mean 'cosine'\?"):
        lr_schedule(LrScheduleConfig(name="cosin"), PEAK, STEPS)


@pytest.mark.parametrize(
    "wrong",
    [{"warmup_steps": -1}, {"warmup_steps": 1.5}, {"min_lr": -1e-9}, {"min_lr": math.nan}, {"decay": 3}, {"name": 3}],
)
def test_the_section_is_strict(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LrScheduleConfig.model_validate(wrong)


def test_settings_without_effect_are_named() -> None:
    assert LrScheduleConfig(min_lr=LOW).without_effect() == []
    assert LrScheduleConfig(name="wsd", min_lr=LOW, decay_steps=3).without_effect() == []
    assert LrScheduleConfig(name="own:schedule", decay_steps=3).without_effect() == []
    assert LrScheduleConfig(name="constant", min_lr=LOW, decay_steps=3).without_effect() == [
        "lr_schedule.min_lr=0.0001 has no effect: a constant schedule does not decay.",
        "lr_schedule.decay_steps=3 has no effect: only wsd reads it.",
    ]


OWN = """
def halving(config, peak_lr, total_steps):
    return lambda step: max(config.min_lr, peak_lr * 0.5 ** (step // 10))

def broken(config, peak_lr, total_steps):
    return lambda step: peak_lr - step

def forgetful(config, peak_lr, total_steps):
    pass

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_schedules.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_schedules", raising=False)


@pytest.mark.usefixtures("own")
def test_a_schedule_of_the_users_own() -> None:
    found = rates(LrScheduleConfig(name="own_schedules:halving", min_lr=2e-4))
    assert [found[0], found[9], found[10], found[39]] == pytest.approx([1e-3, 1e-3, 5e-4, 2e-4])


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("broken", r"own_schedules:broken returned -0.999 at step 1; return a finite number from 0 upwards."),
        ("forgetful", r"own_schedules:forgetful is no schedule; give a function of"),
        ("number", r"own_schedules:number is no schedule"),
        ("missing", r"module 'own_schedules' has no 'missing'"),
    ],
)
def test_an_unusable_schedule_of_the_users_own_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        rates(LrScheduleConfig(name=f"own_schedules:{name}"))
