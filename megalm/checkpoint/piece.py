"""What one rank holds of one whole tensor."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Part = tuple[tuple[int, ...], Tensor]
"""Offsets in the whole tensor, and the values of the rectangle that begins there."""


@dataclass(frozen=True)
class Piece:
    """Rectangles of one whole tensor: what this rank gives to a checkpoint, or wants from one.

    Args:
        shape: the shape of the whole tensor.
        dtype: its dtype, and that of every part.
        parts: for each rectangle its offsets in the whole tensor and its values, a view of live storage of any
            strides; empty when this rank holds nothing. A flat range of a matrix is one to three rectangles.

    Raises:
        ValueError: a part lies outside of the whole tensor or has another dtype.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        for offsets, values in self.parts:
            inside = len(offsets) == len(self.shape) == values.dim() and all(
                offset >= 0 and offset + size <= whole
                for offset, size, whole in zip(offsets, values.shape, self.shape, strict=True)
            )
            if not inside or values.dtype != self.dtype:
                raise ValueError(
                    f"a part of shape {tuple(values.shape)} at {tuple(offsets)}, {values.dtype}, is no part of a "
                    f"tensor of shape {self.shape}, {self.dtype}"
                )

    @staticmethod
    def whole(tensor: Tensor) -> "Piece":
        """Return all of ``tensor`` as one part."""
        return Piece(tuple(tensor.shape), tensor.dtype, (((0,) * tensor.dim(), tensor),))

    def without_empty_parts(self) -> "Piece":
        """Return the same values without the parts that hold none."""
        return replace(self, parts=tuple(part for part in self.parts if part[1].numel()))
