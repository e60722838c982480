"""The dynamic map (Dettmers et al. 2022): 256 numbers of -1 to 1, or of 0 to 1, and the code of the nearest of them.

A number has a decade, of which there are seven below 1, and a fraction, which has one bit more in each higher decade:
so small numbers keep their magnitude, and large ones their digits. A fraction of n bits cuts its decade, from 0.1 to 1
of it, into 2^n equal parts and stands for the middle of one. 0 and 1 themselves are there too. "8-bit Optimizers via
Block-wise Quantization", section 2.
"""

import torch
from torch import Tensor

DECADES = 7
_HALF = 2**16
"""The upper half of a float32's bits finds what a number may be rounded to, the lower half decides."""


class DynamicMap:
    """Codes of one byte for float32 numbers.

    Code 0 is the number 0, and the codes from there on ascend with the numbers, modulo 256 where these are negative.

    Args:
        signed: whether the numbers go from -1 to 1; the sign takes a bit of every fraction.
        device: where the tables lie.
    """

    def __init__(self, *, signed: bool, device: torch.device) -> None:
        """See the class."""
        levels = _levels(signed=signed)
        zero = int((levels < 0).sum())
        self._signed = signed
        self._numbers = levels.roll(-zero).to(device)
        self._table = _rounding_table(levels, zero).to(device)

    def numbers(self, codes: Tensor, *, out: Tensor, spare: Tensor) -> None:
        """Write the numbers that ``codes`` stand for into ``out``.

        Args:
            codes: flat, uint8.
            out: float32, as long.
            spare: int32, as long, of any content.
        """
        torch.index_select(self._numbers, 0, spare.copy_(codes), out=out)

    def codes(self, numbers: Tensor, *, out: Tensor, spare: tuple[Tensor, Tensor]) -> None:
        """Write the codes nearest to ``numbers`` into ``out``; half-way between two the greater.

        What lies outside of the map gets its end; numbers below 0 have no place in one without a sign.

        Args:
            numbers: flat, float32; they are lost.
            out: uint8, as long.
            spare: int32, both as long, of any content.
        """
        cell, code = spare
        key = numbers.view(torch.int32)
        if self._signed:
            torch.bitwise_right_shift(key, 31, out=cell)
            key.bitwise_xor_(cell.bitwise_and_(0x7FFFFFFF))
        torch.bitwise_right_shift(key, 16, out=cell)
        torch.index_select(self._table, 0, cell.add_(_HALF // 2), out=code)
        out.copy_(code.add_(key).bitwise_right_shift_(16))


def _levels(*, signed: bool) -> Tensor:
    """Return the 256 numbers, float32, ascending."""
    positive = [
        10.0 ** (decade + 1 - DECADES) * (0.1 + 0.9 * (part + 0.5) / parts)
        for decade in range(DECADES)
        for parts in [2 ** (decade if signed else decade + 1)]
        for part in range(parts)
    ]
    negative = [-number for number in reversed(positive)] if signed else []
    return torch.tensor([*negative, 0.0, *positive, 1.0])


def _keys(numbers: Tensor) -> Tensor:
    """Return integers, int64, that are ordered as the float32 numbers are."""
    bits = numbers.view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def _rounding_table(levels: Tensor, zero: int) -> Tensor:
    """Return for each upper half of a key what, added to the key, has the code in its upper half.

    In all keys of one upper half there is at most one border between two codes: the lower half carries into the upper
    one from there on. The upper half of the key itself is taken off.
    """
    exact = levels.double()
    halfway = (exact[1:] + exact[:-1]) / 2
    borders = halfway.float()
    borders = torch.where(borders.double() < halfway, borders.nextafter(torch.tensor(2.0)), borders)
    keys = _keys(borders)
    starts = torch.arange(-_HALF // 2, _HALF // 2) * _HALF
    below = torch.searchsorted(keys, starts, right=True)
    through = torch.searchsorted(keys, starts + _HALF - 1, right=True)
    border = torch.where(through > below, keys[below.clamp(max=len(keys) - 1)] - starts, _HALF)
    return ((below - zero) * _HALF + _HALF - border - starts).to(torch.int32)
