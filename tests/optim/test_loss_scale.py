"""Oracle: the rule of the paper, step by step."""

from megalm.optim.loss_scale import GROWTH_INTERVAL, LossScale


def test_it_halves_at_an_overflow_and_doubles_after_calm() -> None:
    scale = LossScale(1024, dynamic=True)
    assert scale.overflows()
    assert (scale.value, scale.calm_steps) == (512, 0)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.succeeds()
    assert scale.value == 512
    scale.succeeds()
    assert (scale.value, scale.calm_steps) == (1024, 0)


def test_an_overflow_begins_the_calm_anew() -> None:
    scale = LossScale(8, dynamic=True, calm_steps=GROWTH_INTERVAL - 1)
    assert scale.overflows()
    scale.succeeds()
    assert scale.value == 4


def test_at_1_a_smaller_scale_cannot_mend_it() -> None:
    scale = LossScale(1, dynamic=True)
    assert not scale.overflows()
    assert scale.value == 1


def test_only_float16_has_one() -> None:
    assert (LossScale.of("fp16").value, LossScale.of("fp16").dynamic) == (65536, True)
    for precision in ("fp64", "fp32", "bf16"):
        scale = LossScale.of(precision)
        assert not scale.overflows()
        scale.succeeds()
        assert scale.value == 1
