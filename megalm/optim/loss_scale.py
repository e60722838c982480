"""Dynamic loss scale for float16 (Micikevicius et al. 2018): gradients too small for it are made larger, and back."""

FIRST = 2.0**16
GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the scale doubles."""


class LossScale:
    """What the loss is multiplied by before the backward pass.

    Args:
        value: the scale now.
        dynamic: whether it moves: halved at an overflow, doubled after ``GROWTH_INTERVAL`` steps without one.
        calm_steps: steps since it moved.
    """

    def __init__(self, value: float = 1.0, *, dynamic: bool = False, calm_steps: int = 0) -> None:
        """See the class."""
        self.value = value
        self.dynamic = dynamic
        self.calm_steps = calm_steps

    @staticmethod
    def of(precision: str) -> "LossScale":
        """Return the scale with which a run of this precision begins: only float16 needs one."""
        return LossScale(FIRST, dynamic=True) if precision == "fp16" else LossScale()

    def overflows(self) -> bool:
        """Take note of a gradient that is not finite; return whether a smaller scale may mend it."""
        if not self.dynamic or self.value <= 1:
            return False
        self.value, self.calm_steps = self.value / 2, 0
        return True

    def succeeds(self) -> None:
        """Take note of a step whose gradients are finite."""
        self.calm_steps += 1
        if self.dynamic and self.calm_steps >= GROWTH_INTERVAL:
            self.value, self.calm_steps = 2 * self.value, 0
