"""Matrix products of 16-bit operands with float32 sums, as a tensor core makes them, on any device.

On a CPU they are made in float32: a product of two 16-bit numbers is exact there, so only the order of the sums
differs, and without 16-bit units it is some fifty times faster than the CPU's own.
"""

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


def widened(operand: Tensor) -> Tensor:
    """Return a 16-bit operand as this device multiplies it: in float32 on a CPU, else as it is."""
    return operand.float() if operand.dtype in HALVES and not operand.is_cuda else operand


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``a @ b``, plus a bias, in the dtype of ``a``.

    Args:
        a: [n, k].
        b: [k, m].
        bias: [m].
    """
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


def add_product_to(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to ``total``, which is as wide as the operands or wider, without rounding in between.

    Args:
        total: [n, m].
        a: [n, k].
        b: [k, m].
    """
    wide_a, wide_b = widened(a), widened(b)
    if total.dtype == wide_a.dtype:
        torch.addmm(total, wide_a, wide_b, out=total)
    elif wide_a.dtype in HALVES:
        torch.addmm(total, wide_a, wide_b, out_dtype=total.dtype, out=total)
    else:
        total.add_(wide_a @ wide_b)
