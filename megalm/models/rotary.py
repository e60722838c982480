"""Rotary position embedding (Su et al. 2021), on the first features of each head."""

import torch
from torch import Tensor, nn

from megalm.models.rope_scaling import RopeScaling


class Rotary(nn.Module):
    """Tables of the rotation's cosines and sines, made once and shared by all blocks.

    Args:
        rotary_dim: features of a head that rotate, an even number; feature i turns with feature i + rotary_dim / 2.
        max_positions: rows of the tables.
        base: wavelengths grow from 2 pi to 2 pi x base.
        scaling: how the frequencies are changed, if they are.
    """

    cos_pd: Tensor
    sin_pd: Tensor

    def __init__(self, rotary_dim: int, max_positions: int, base: float, scaling: RopeScaling | None = None) -> None:
        """See the class."""
        super().__init__()
        self.rotary_dim, self.max_positions, self.base = rotary_dim, max_positions, base
        self.scaling = scaling
        self.register_buffer("cos_pd", torch.empty(max_positions, rotary_dim // 2), persistent=False)
        self.register_buffer("sin_pd", torch.empty(max_positions, rotary_dim // 2), persistent=False)
        if not self.cos_pd.is_meta:
            self.fill()

    def fill(self) -> None:
        """Compute the tables in float64 and round them once."""
        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.float64, device=self.cos_pd.device)
        frequencies = self.base ** -(exponents / self.rotary_dim)
        if self.scaling is not None:
            frequencies = torch.tensor(
                [self.scaling.scaled(frequency) for frequency in frequencies.tolist()],
                dtype=torch.float64,
                device=self.cos_pd.device,
            )
        positions = torch.arange(self.max_positions, dtype=torch.float64, device=self.cos_pd.device)
        angles = positions.outer(frequencies)
        self.cos_pd.copy_(angles.cos())
        self.sin_pd.copy_(angles.sin())

    def forward(self, x_bshd: Tensor, positions_bs: Tensor) -> Tensor:
        """Turn each head's first features by its position."""
        half = self.rotary_dim // 2
        cos = self.cos_pd[positions_bs].unsqueeze(2)
        sin = self.sin_pd[positions_bs].unsqueeze(2)
        first, second, rest = x_bshd[..., :half], x_bshd[..., half : 2 * half], x_bshd[..., 2 * half :]
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat([*(part.to(x_bshd.dtype) for part in turned), rest], -1)
