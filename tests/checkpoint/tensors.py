"""Whole tensors of known bits, and ways to cut them, for the tests of checkpoints."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from megalm.checkpoint.checkpoint import Checkpoint
from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import CheckpointStore
from megalm.mesh import Axis
from tests.ranks import RankContext

Rectangle = tuple[tuple[int, int], ...]
"""(start, stop) of each dim."""

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8)
MODEL = {
    "embedding.weight": ((11, 6), torch.float32),
    "block.0.weight": ((8, 12), torch.float64),
    "block.0.bias": ((7,), torch.bfloat16),
    "optimizer.count": ((), torch.int64),
    "bytes": ((3, 4, 5), torch.uint8),
}


def tensor_of(name: str, shape: tuple[int, ...], dtype: torch.dtype, version: int = 0) -> Tensor:
    """Return a tensor whose bits follow from its name; for floats, every bit pattern comes up, NaNs included."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {version}".encode()).digest()[:8], "big")
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    bits = np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8)
    return torch.from_numpy(bits).view(dtype).reshape(shape)


def model(version: int = 0) -> dict[str, Tensor]:
    """Return the whole tensors of ``MODEL``; each version has other bits."""
    return {name: tensor_of(name, shape, dtype, version) for name, (shape, dtype) in MODEL.items()}


def bits(tensor: Tensor) -> bytes:
    """Return the values bit by bit: NaN equals itself, 0.0 is not -0.0."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def cut(whole: Tensor, rectangles: Sequence[Rectangle]) -> Piece:
    """Return the piece of views of ``whole`` at ``rectangles``."""
    parts = tuple(
        (tuple(start for start, _ in rectangle), whole[tuple(slice(*ends) for ends in rectangle)])
        for rectangle in rectangles
    )
    return Piece(tuple(whole.shape), whole.dtype, parts)


def everything(tensors: Mapping[str, Tensor]) -> dict[str, Piece]:
    """Return each tensor as one whole piece."""
    return {name: Piece.whole(tensor) for name, tensor in tensors.items()}


def blank(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the same shapes whose every bit differs."""
    return {
        name: tensor.flatten().view(torch.uint8).bitwise_not().view(tensor.dtype).reshape(tensor.shape)
        for name, tensor in tensors.items()
    }


def alone(directory: Path, keep: int = 2, warnings: list[str] | None = None) -> CheckpointStore:
    """Return the store of a run of one process; what it warns of is appended to ``warnings``, or is a failure."""

    def unexpected(text: str) -> None:
        raise AssertionError(text)

    return CheckpointStore(
        directory, world=Axis.alone(), keep=keep, warn=unexpected if warnings is None else warnings.append
    )


def save(directory: Path, step: int, version: int | None = None, keep: int = 2) -> None:
    """Save a version of the model, by default that of the step, as a run of one process."""
    version = step if version is None else version
    warnings: list[str] = []
    alone(directory, keep, warnings).save(step, everything(model(version)), {"version": version}, asynchronous=False)


def check_whole(checkpoint: Checkpoint) -> None:
    """Assert that a checkpoint holds the bits of the version it says it has."""
    whole = model(checkpoint.facts["version"])
    into = blank(whole)
    checkpoint.load(everything(into))
    for name, tensor in whole.items():
        assert bits(into[name]) == bits(tensor), name


def world_of(context: RankContext) -> Axis:
    """Return the axis over all ranks of a call of the rank pool."""
    if context.num_ranks == 1:
        return Axis.alone("world")
    group = dist.group.WORLD
    assert isinstance(group, dist.ProcessGroup)
    return Axis("world", tuple(range(context.num_ranks)), context.rank, group)
