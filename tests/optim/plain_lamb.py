"""LAMB as the paper says it, for one whole parameter: the oracle of what is done in parts."""

from collections.abc import Sequence

import torch
from torch import Tensor


def plain_lamb(
    values: Tensor,
    steps: Sequence[tuple[float, Tensor]],
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Tensor:
    """Return the values after the steps, each a learning rate and a gradient."""
    w, m, v = values.clone(), torch.zeros_like(values), torch.zeros_like(values)
    is_matrix = values.ndim > 1
    for number, (lr, g) in enumerate(steps, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** number), v / (1 - betas[1] ** number)
        u = m_hat / (v_hat.sqrt() + eps) + (weight_decay * w if is_matrix else 0)
        ratio = w.norm() / u.norm() if is_matrix and w.norm() and u.norm() else 1
        w = w - lr * ratio * u
    return w
