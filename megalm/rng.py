"""Random numbers by name and position, so that no draw depends on the layout.

A draw is a pure function of (key, row, column): a 32-bit counter generator. The key hashes the words that name the
stream; each row and each column is hashed once to 32 bits, and the pair is mixed by multiply, xorshift, multiply (the
constants of MurmurHash3's finalizer): five passes over the elements, about what torch's own dropout costs. The high
bits are the good ones.
"""

import hashlib
import math

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 1 << 20


def key(*words: int | str) -> int:
    """Return 63 bits that name a stream, as ``key(seed, "layers.0.mlp.down_proj.weight")``."""
    text = "\0".join(f"{type(word).__name__}:{word}" for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _wrap(number: int, bits: int) -> int:
    """Return ``number`` as a signed integer of ``bits`` bits."""
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def _hash_index(index: Tensor, stream: int) -> Tensor:
    """Hash int64 indices to int32, by the splitmix64 finalizer (Steele et al. 2014)."""
    x = index * _wrap(0x9E3779B97F4A7C15, 64) + _wrap(stream * 0xBF58476D1CE4E5B9, 64)
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _wrap(0xBF58476D1CE4E5B9, 64)
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _wrap(0x94D049BB133111EB, 64)
    return (x >> 32).to(torch.int32)


def bits(stream: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Draw 32 random bits for each (row, column).

    Args:
        stream: a ``key``.
        rows: int64 [...], any row numbers.
        columns: int64 [c], any column numbers.

    Returns:
        int32 [..., c].
    """
    x = _hash_index(rows, stream).unsqueeze(-1) ^ _hash_index(columns, stream ^ 0x5851F42D4C957F2D)
    x *= _wrap(0x85EBCA6B, 32)
    x ^= x >> 15  # arithmetic: the sign bit is spent here, and the last product fills it again
    x *= _wrap(0xC2B2AE35, 32)
    return x


def keep_mask(stream: int, rows: Tensor, columns: Tensor, p: float) -> Tensor:
    """Return the boolean mask [..., c] of the elements that dropout with probability ``p`` keeps."""
    threshold = round(p * 2**32) - 2**31
    return bits(stream, rows, columns) >= min(threshold, 2**31 - 1)


def fill_normal(target: Tensor, stream: int, std: float, row_start: int, column_start: int) -> None:
    """Fill a slice of a named matrix with normal draws of mean 0 (Box-Muller), in row blocks.

    Args:
        target: [r, c], the slice this rank holds.
        stream: a ``key``.
        std: standard deviation.
        row_start: the row of the whole matrix at which the slice begins.
        column_start: likewise the column.
    """
    columns = torch.arange(column_start, column_start + target.shape[1], device=target.device)
    step = max(_BLOCK_ELEMENTS // max(target.shape[1], 1), 1)
    for start in range(0, target.shape[0], step):
        block = target[start : start + step]
        rows = torch.arange(row_start + start, row_start + start + block.shape[0], device=target.device)
        radius = bits(stream, rows, columns).double().add_(2**31 + 0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = bits(stream ^ 0x2545F4914F6CDD1D, rows, columns).double().mul_(2 * math.pi * 2.0**-32).cos_()
        block.copy_(radius.mul_(angle).mul_(std))
