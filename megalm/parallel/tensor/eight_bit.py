"""Operands of matrix products rounded to 8-bit floats: e4m3 for rows and weights, e5m2 for gradients.

Each tensor is multiplied by a power of two that brings its largest entry into the upper half of the format's range, is
rounded, and its products are divided again. A power of two moves no rounding border of a normal number, so it does not
matter of what a rank takes the largest entry: the whole tensor, its own slice of it, or a micro-batch of other size.
Only entries some four decimal digits below the largest (e4m3; eight for e5m2) may be rounded otherwise.

Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

E4M3 = torch.float8_e4m3fn
E5M2 = torch.float8_e5m2

EXPONENT_BIAS, FRACTION_BITS = 127, 23
"""Of a float32."""

LARGEST_EXPONENT = 126
"""Of a scale: its inverse must be a normal float32 too."""

TILE = 16
"""What each size of an 8-bit product must be a multiple of."""


def scales(tensor: Tensor, form: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the largest power of two that brings no entry of ``tensor`` out of the 8-bit ``form``, and its inverse.

    It is 1 where nothing is to be scaled. An entry that is not finite makes the inverse NaN, and with it everything
    that is made of the tensor: what becomes of an infinity that e4m3 does not have is a device's own affair.

    Returns:
        Two float32 tensors without dims.
    """
    if not tensor.numel():
        return tensor.new_ones((), dtype=torch.float32), tensor.new_ones((), dtype=torch.float32)
    top_fraction, top_exponent = math.frexp(torch.finfo(form).max)
    largest = torch.linalg.vector_norm(tensor, math.inf).float()
    fraction, exponent = torch.frexp(largest)
    room = (top_exponent - exponent - (fraction > top_fraction).int()).clamp_(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    room.masked_fill_(largest == 0, 0)
    return power_of_two(room), power_of_two(-room).masked_fill_(~largest.isfinite(), math.nan)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2^exponent in float32, made of its bits: no device's power function need be exact."""
    return ((exponent + EXPONENT_BIAS) << FRACTION_BITS).view(torch.float32)


def rounded(tensor: Tensor, form: torch.dtype) -> Tensor:
    """Return what ``tensor`` is after rounding to the 8-bit ``form``, in its own dtype, bfloat16 or wider: exactly."""
    kept = EightBit.of(tensor, form)
    return kept.codes.to(tensor.dtype).mul_(kept.unit)


def multiplies_8_bits(device: torch.device) -> bool:
    """Tell whether the device's matrix units take 8-bit operands: NVIDIA's from compute capability 8.9 on."""
    return (
        device.type == "cuda" and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 9)
    )


@dataclass(frozen=True)
class EightBit:
    """A rounded matrix, for matrix units that take such.

    Args:
        codes: the matrix divided by ``unit``, in an 8-bit dtype.
        unit: float32 without dims, a power of two, or NaN where the matrix is not finite.
        dtype: of the matrix before, and of products.
    """

    codes: Tensor
    unit: Tensor
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor, form: torch.dtype) -> "EightBit":
        """Round a matrix to nearest, ties to even, with a scale of its own."""
        scale, unit = scales(tensor, form)
        return EightBit((tensor * scale).to(form), unit, tensor.dtype)

    def t(self) -> "EightBit":
        """Return the transposed matrix, a view."""
        return EightBit(self.codes.t(), self.unit, self.dtype)

    def times(self, other: "EightBit", dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
        """Return the product, plus a bias, in ``dtype``: summed in float32 and rounded once.

        The units want sizes that are multiples of 16, and both operands stored along the dim that is summed over: what
        is not gets a copy, filled up with zeros.

        Args:
            other: [k, m], where this is [n, k]; not both e5m2.
            dtype: a bias is of this dtype too, and then it is not float32.
            bias: [m].
        """
        left, right = _tiled(self.codes), _tiled(other.codes.t())
        num_rows, num_columns = self.codes.shape[0], other.codes.shape[1]
        made: Tensor = torch._scaled_mm(
            left,
            right.t(),
            scale_a=self.unit,
            scale_b=other.unit,
            bias=None if bias is None else F.pad(bias, (0, right.shape[0] - num_columns)),
            out_dtype=dtype,
        )
        return made[:num_rows, :num_columns].contiguous()  # collectives take no other


def _tiled(codes: Tensor) -> Tensor:
    """Return a matrix row by row, with rows and columns of zeros up to whole tiles, at least one."""
    missing = [max(-(-size // TILE), 1) * TILE - size for size in codes.shape]
    if not any(missing):
        return codes.contiguous()
    return F.pad(codes.view(torch.uint8), (0, missing[1], 0, missing[0])).view(codes.dtype)


class EightBitRounding:
    """Rounds what the products of a linear layer read to 8 bits; see ``product.Rounding``."""

    def operand(self, tensor: Tensor) -> Tensor | EightBit:
        """Round rows or a weight to e4m3, whose fraction has a bit more."""
        return _as_multiplied(tensor, E4M3)

    def gradient(self, tensor: Tensor) -> Tensor | EightBit:
        """Round a gradient to e5m2, whose exponent has a bit more."""
        return _as_multiplied(tensor, E5M2)


def _as_multiplied(tensor: Tensor, form: torch.dtype) -> Tensor | EightBit:
    return EightBit.of(tensor, form) if multiplies_8_bits(tensor.device) else rounded(tensor, form)
