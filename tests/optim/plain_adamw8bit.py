"""AdamW with 8-bit moments as the paper says it, for one whole parameter: the oracle of what is done in parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 256


def paper_numbers(*, signed: bool) -> Tensor:
    """Return the numbers of the dynamic data type, ascending, float32, from its bit patterns.

    Behind a sign, if there is one, as many zeros as the number lies decades below 1, then a 1, then the fraction.
    """
    bits = 7 if signed else 8
    numbers = {0.0, 1.0}
    for pattern in range(1 if signed else 2, 2**bits):
        zeros = bits - pattern.bit_length()
        fractions = 2 ** (pattern.bit_length() - 1)
        number = 10.0**-zeros * (0.1 + 0.9 * (pattern - fractions + 0.5) / fractions)
        numbers |= {number, -number} if signed else {number}
    return torch.tensor(sorted(numbers))


def rounded(moment: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Return a matrix after it was quantized, and the largest of each block of its rows."""
    numbers, back, largest = paper_numbers(signed=signed), torch.zeros_like(moment), []
    for start in range(0, moment.shape[-1], BLOCK):
        block = moment[..., start : start + BLOCK]
        absmax = block.abs().amax(-1, keepdim=True).float()
        quotients = (block / absmax.clamp(min=torch.finfo(torch.float32).tiny)).float()
        nearest = (quotients.double().unsqueeze(-1) - numbers.double()).abs().argmin(-1)
        back[..., start : start + BLOCK] = numbers[nearest].to(moment.dtype) * absmax
        largest.append(absmax)
    return back, torch.cat(largest, -1)


@dataclass
class Plain:
    """A parameter after some steps; of matrices the moments as their codes say them, and the blocks' largest."""

    values: Tensor
    moments: list[Tensor]
    absmax: list[Tensor]


def plain_adamw8bit(
    values: Tensor,
    steps: Sequence[tuple[float, Tensor]],
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Plain:
    """Return the parameter after the steps, each a learning rate and a gradient."""
    w, m, v = values.clone(), torch.zeros_like(values), torch.zeros_like(values)
    absmax: list[Tensor] = []
    for number, (lr, g) in enumerate(steps, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** number), v / (1 - betas[1] ** number)
        w = w - lr * (m_hat / (v_hat.sqrt() + eps) + (weight_decay * w if w.ndim > 1 else 0))
        if w.ndim > 1:
            (m, first), (v, second) = rounded(m, signed=True), rounded(v, signed=False)
            absmax = [first, second]
    return Plain(w, [m, v], absmax)
