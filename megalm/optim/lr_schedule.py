"""The learning rate of each step: a pure function of the step, so that a resume needs nothing but the step.

Steps count from 0. Warm-up over ``w`` steps uses ``lr * (step + 1) / w``: the first update already learns, and step
``w - 1`` is the first at the full ``lr``. (Some frameworks start at 0, which spends one update on nothing.) A decay
then runs from ``lr`` at its first step towards ``min_lr``, which it would reach at step ``total_steps``, one past the
last: so with ``min_lr`` 0 the last update still learns. Of a warm-up longer than the run, the run is the first part.
"""

import math
from collections.abc import Callable
from types import MappingProxyType

from pydantic import Field

from megalm.errors import UserError
from megalm.registry import lookup
from megalm.section import Section

Schedule = Callable[[int], float]
"""From the 0-based step to the learning rate of its update."""


class LrScheduleConfig(Section):
    """How the learning rate moves over the run."""

    name: str = Field(
        "cosine",
        description="cosine and linear fall from optimizer.lr to min_lr over the whole run, constant stays, wsd "
        "(warm-up, stable, decay) falls linearly in its last decay_steps only, so that a run can be made longer; or "
        "package.module:name, called like the built-ins with (config, peak_lr, total_steps)",
    )
    warmup_steps: int = Field(
        0, ge=0, description="the rate grows linearly to optimizer.lr over this many steps; it may exceed train.steps"
    )
    min_lr: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="where the decay ends; it may not exceed optimizer.lr"
    )
    decay_steps: int | None = Field(
        None, ge=0, description="wsd only: this many last steps decay; null takes the last tenth of the run"
    )

    def without_effect(self) -> list[str]:
        """Return one sentence for each setting that this schedule does not read, for the run to print as a warning."""
        found = []
        if self.name == "constant" and self.min_lr:
            found.append(f"lr_schedule.min_lr={self.min_lr:g} has no effect: a constant schedule does not decay.")
        if self.decay_steps is not None and self.name in BUILT_IN and self.name != "wsd":
            found.append(f"lr_schedule.decay_steps={self.decay_steps} has no effect: only wsd reads it.")
        return found


def lr_schedule(config: LrScheduleConfig, peak_lr: float, total_steps: int) -> Schedule:
    """Return the learning rate as a function of the 0-based step.

    Args:
        config: the ``lr_schedule`` section.
        peak_lr: ``optimizer.lr``, the largest rate of the run.
        total_steps: ``train.steps``.

    Raises:
        UserError: ``min_lr`` exceeds ``peak_lr``, the name is unknown, or a schedule of the user's own does not return
            a usable number.
    """
    if config.min_lr > peak_lr:
        raise UserError(
            f"lr_schedule.min_lr={config.min_lr:g} is above optimizer.lr={peak_lr:g}: a decay would rise; lower min_lr."
        )
    build = lookup("lr_schedule.name", config.name, BUILT_IN)
    schedule = build(config, peak_lr, total_steps) if callable(build) else None
    if not callable(schedule):
        raise UserError(
            f"lr_schedule.name: {config.name} is no schedule; give a function of (config, peak_lr, total_steps) that "
            "returns a function of the step."
        )
    return schedule if config.name in BUILT_IN else _checked(config.name, schedule)


def constant(config: LrScheduleConfig, peak_lr: float, total_steps: int) -> Schedule:
    """The full rate after the warm-up."""
    return lambda step: peak_lr * _warmup(config, step)


def linear(config: LrScheduleConfig, peak_lr: float, total_steps: int) -> Schedule:
    """A straight line from the full rate after the warm-up to ``min_lr``."""
    return _decaying(config, peak_lr, total_steps, config.warmup_steps, lambda progress: 1 - progress)


def cosine(config: LrScheduleConfig, peak_lr: float, total_steps: int) -> Schedule:
    """Half a cosine wave from the full rate after the warm-up to ``min_lr``.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, without restarts.
    """
    return _decaying(
        config, peak_lr, total_steps, config.warmup_steps, lambda progress: (1 + math.cos(math.pi * progress)) / 2
    )


def wsd(config: LrScheduleConfig, peak_lr: float, total_steps: int) -> Schedule:
    """Warm-up, a stable stretch at the full rate, and a straight line to ``min_lr`` over the last ``decay_steps``.

    Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies", 2024.
    """
    decay_steps = math.ceil(total_steps / 10) if config.decay_steps is None else config.decay_steps
    first = max(config.warmup_steps, total_steps - decay_steps)
    return _decaying(config, peak_lr, total_steps, first, lambda progress: 1 - progress)


BUILT_IN = MappingProxyType({"cosine": cosine, "linear": linear, "constant": constant, "wsd": wsd})


def _warmup(config: LrScheduleConfig, step: int) -> float:
    return min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0


def _decaying(
    config: LrScheduleConfig, peak_lr: float, total_steps: int, first: int, shape: Callable[[float], float]
) -> Schedule:
    """Return warm-up, then the full rate until step ``first``, then ``shape`` from 1 to 0 over the steps left."""

    def rate(step: int) -> float:
        if step <= first:
            return peak_lr * _warmup(config, step)
        progress = min(1.0, (step - first) / (total_steps - first)) if first < total_steps else 1.0
        return config.min_lr + (peak_lr - config.min_lr) * shape(progress)

    return rate


def _checked(name: str, schedule: Schedule) -> Schedule:
    def rate(step: int) -> float:
        value = schedule(step)
        if not isinstance(value, float | int) or not 0 <= value < math.inf:
            raise UserError(
                f"lr_schedule {name} returned {value!r} at step {step}; return a finite number from 0 upwards."
            )
        return float(value)

    return rate
