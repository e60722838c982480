"""Matrix products of narrow operands with float32 sums, as a tensor core makes them, on any device.

On a CPU 16-bit operands are multiplied in float32: a product of two of them is exact there, so only the order of the
sums differs, and without 16-bit units it is some fifty times faster than the CPU's own. Operands that a layer has
rounded to 8 bits are ``EightBit`` where the device multiplies such, elsewhere 16-bit tensors of the same numbers.
"""

from typing import Protocol

import torch
from torch import Tensor

from megalm.parallel.tensor.eight_bit import EightBit

HALVES = (torch.bfloat16, torch.float16)

Operand = Tensor | EightBit
"""A matrix as a product reads it."""


def tensors_of(operand: Operand) -> list[Tensor]:
    """Return the tensors that a kept operand consists of."""
    return [operand.codes, operand.unit] if isinstance(operand, EightBit) else [operand]


class Rounding(Protocol):
    """What the products of a linear layer read of its operands: of the tensors that a layer has and keeps.

    It is a function of the tensor alone, so that what is computed again, or put off, is the same.
    """

    def operand(self, tensor: Tensor) -> Operand:
        """Return rows, or a weight, as products read them."""

    def gradient(self, tensor: Tensor) -> Operand:
        """Return the gradient of a layer's output as the products of its backward read it."""


class Unrounded:
    """Products read the tensors as they are."""

    def operand(self, tensor: Tensor) -> Operand:
        """Return it."""
        return tensor

    def gradient(self, tensor: Tensor) -> Operand:
        """Return it."""
        return tensor


def widened(operand: Tensor) -> Tensor:
    """Return a 16-bit operand as this device multiplies it: in float32 on a CPU, else as it is."""
    return operand.float() if operand.dtype in HALVES and not operand.is_cuda else operand


def product(a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
    """Return ``a @ b``, plus a bias, in the dtype of ``a``.

    Args:
        a: [n, k].
        b: [k, m], rounded like ``a``.
        bias: [m].
    """
    if isinstance(a, EightBit) or isinstance(b, EightBit):
        return _eight_bits(a).times(_eight_bits(b), a.dtype, bias)
    wide_a, wide_b = widened(a), widened(b)
    made = wide_a @ wide_b if bias is None else torch.addmm(widened(bias), wide_a, wide_b)
    return made.to(a.dtype)


def product_into(out: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """Overwrite ``out`` with ``factor * (a @ b)``, rounded to its own dtype only, and return it.

    Args:
        out: [n, m].
        a: [n, k], widened.
        b: [k, m], widened.
        factor: costs nothing.
    """
    if out.dtype == a.dtype:
        return torch.addmm(out, a, b, beta=0, alpha=factor, out=out)
    return torch.addmm(out, a, b, out_dtype=out.dtype, beta=0, alpha=factor, out=out)


def wide_product(a: Operand, b: Operand) -> Tensor:
    """Return ``a @ b`` in the dtype in which this device adds up, to be the first of several; see ``product``."""
    if isinstance(a, EightBit) or isinstance(b, EightBit):
        return _eight_bits(a).times(_eight_bits(b), torch.float32)
    return widened(a) @ widened(b)


def add_product_to(total: Tensor, a: Operand, b: Operand) -> None:
    """Add ``a @ b`` to ``total``, which is as wide as the operands or wider, without rounding in between.

    Args:
        total: [n, m].
        a: [n, k].
        b: [k, m], rounded like ``a``.
    """
    if isinstance(a, EightBit) or isinstance(b, EightBit):
        total.add_(wide_product(a, b))
        return
    wide_a, wide_b = widened(a), widened(b)
    if total.dtype == wide_a.dtype:
        torch.addmm(total, wide_a, wide_b, out=total)
    elif wide_a.dtype in HALVES:
        torch.addmm(total, wide_a, wide_b, out_dtype=total.dtype, out=total)
    else:
        total.add_(wide_a @ wide_b)


def _eight_bits(operand: Operand) -> EightBit:
    if not isinstance(operand, EightBit):
        raise TypeError(f"an 8-bit operand is multiplied with one, not with a tensor of {operand.dtype}")
    return operand
