"""The two 8-bit floats as the OCP specification defines them (OFP8, revision 1.0, section 5), and rounding to them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Format:
    """One of the formats: a sign, an exponent, a fraction.

    Args:
        form: torch's dtype.
        fraction_bits: the rest of seven are the exponent's.
        bias: of the exponent.
        has_infinities: whether the largest exponent is kept for infinities and NaNs, or only its last code for NaN.
    """

    form: torch.dtype
    fraction_bits: int
    bias: int
    has_infinities: bool

    def value(self, code: int) -> float:
        """Return what one of the 256 codes stands for."""
        fraction_size = 1 << self.fraction_bits
        sign, exponent, fraction = code >> 7, (code & 127) // fraction_size, code % fraction_size
        top = (127 // fraction_size, fraction_size - 1)
        if exponent == top[0] and self.has_infinities:
            magnitude = math.nan if fraction else math.inf
        elif (exponent, fraction) == top:
            magnitude = math.nan
        elif exponent:
            magnitude = math.ldexp(1 + fraction / fraction_size, exponent - self.bias)
        else:
            magnitude = math.ldexp(fraction / fraction_size, 1 - self.bias)
        return -magnitude if sign else magnitude

    def values(self) -> list[float]:
        """Return the finite values of the codes without sign, which ascend with the code."""
        return [value for code in range(128) if math.isfinite(value := self.value(code))]

    @property
    def smallest_normal(self) -> float:
        """The smallest number with all bits of the fraction."""
        return math.ldexp(1.0, 1 - self.bias)

    def scale(self, tensor: Tensor) -> float:
        """Return the largest power of two that leaves the tensor inside the format; by trying them."""
        largest, top = float(tensor.double().abs().max()), self.values()[-1]
        return max(2.0**k for k in range(-200, 200) if largest * 2.0**k <= top)

    def rounded(self, tensor: Tensor, scale: float | None = None) -> Tensor:
        """Return a tensor of finite entries rounded with its scale, or another, in float64: by looking for neighbours.

        Of two as near the one with the even code is taken.
        """
        scale, values = scale or self.scale(tensor), torch.tensor(self.values(), dtype=torch.float64)
        scaled = tensor.double() * scale
        above = torch.searchsorted(values, scaled.abs()).clamp(max=len(values) - 1)
        below = (above - 1).clamp(min=0)
        to_above, to_below = values[above] - scaled.abs(), scaled.abs() - values[below]
        up = (to_above < to_below) | ((to_above == to_below) & (above % 2 == 0))
        return torch.where(up, values[above], values[below]).copysign(scaled) / scale


E4M3 = Format(torch.float8_e4m3fn, 3, 7, has_infinities=False)
E5M2 = Format(torch.float8_e5m2, 2, 15, has_infinities=True)
FORMATS = (E4M3, E5M2)
