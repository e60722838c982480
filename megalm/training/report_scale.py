"""From numbers to places on a chart: the span of an axis, its ticks and how a number is written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOG_SPAN = 50
"""A chart that may be logarithmic is so from this ratio of largest to smallest value on."""
KIB = 1024


@dataclass(frozen=True)
class Scale:
    """One axis of a chart.

    Args:
        low: the value at position 0.
        high: the value at position 1; larger than ``low``.
        log: whether equal ratios take equal room.
    """

    low: float
    high: float
    log: bool = False

    @staticmethod
    def over(values: Sequence[float], from_zero: bool = False, may_be_log: bool = False) -> "Scale":
        """Return a scale that holds all ``values`` with a little room, at least one value."""
        low, high = min(values), max(values)
        if may_be_log and low > 0 and high / low > LOG_SPAN:
            return Scale(low / 1.2, high * 1.2, log=True)
        if low == high:
            around = abs(low) or 1.0
            low, high = (low, low + around) if from_zero and low == 0 else (low - around, high + around)
        room = 0.06 * (high - low)
        if from_zero:
            low, high = min(0.0, low), max(0.0, high)
            return Scale(low - room if low < 0 else low, high + room if high > 0 else high)
        return Scale(low - room, high + room)

    def position(self, value: float) -> float:
        """Return where ``value`` lies, 0 at ``low`` and 1 at ``high``."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about ``count`` round values inside the scale."""
        if self.log:
            return self._log_ticks()
        rough = (self.high - self.low) / count
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1, 2, 5) if len(decades) <= 4 else (1,)
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        return [value for value in values if self.low <= value <= self.high]


def readable(value: float) -> str:
    """Write a number for a person: ``2,345``, ``6.1234``, ``0.05``, ``5e-05``."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"
    return f"{value:.5g}"


def size_text(count: int) -> str:
    """Write a number of bytes for a person."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < KIB:
            return f"{readable(size)} {unit}"
        size /= KIB
    return f"{readable(size)} TiB"
