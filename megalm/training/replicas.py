"""Are the replicas of every parameter still alike? A rank whose memory or kernels err is named before it spoils more.

Replicas get the same sums and make the same updates, so they stay equal bit for bit. What is compared is a fingerprint
of the bits of each parameter: 64 bits, so that two different tensors agree once in 2^64 times.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from megalm import collectives
from megalm.errors import TrainingError
from megalm.mesh import Axis
from megalm.parallel.data.bucket import Bucket, Slot
from megalm.param_spec import ParamSpec
from megalm.parameters import spec_of
from megalm.training.build import TrainingState

PIECE = 1 << 20
"""Elements whose bits are wide integers at a time."""
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)
"""Odd, with bits everywhere (2^64 over the golden ratio), as a signed integer."""


@dataclass(frozen=True)
class _Kept:
    """One parameter, and how to get the part of it that this rank keeps between steps, flat."""

    spec: ParamSpec
    flat: Callable[[], Tensor]


class Replicas:
    """The replicas of what this rank holds.

    Args:
        state: of the native engine.
        shard_size: data ranks that own a part of the parameters each.
    """

    def __init__(self, state: TrainingState, shard_size: int) -> None:
        """See the class; every rank of the world does this at the same time."""
        mesh = state.mesh
        self._mesh = mesh
        _, replicas = mesh.shards(shard_size)
        in_parts = any(bucket.zero_stage == 3 for bucket in state.buckets)
        learned = [_Kept(slot.spec, partial(_kept, bucket, slot)) for bucket in state.buckets for slot in bucket.slots]
        still = [parameter for parameter in state.held.parameters() if not parameter.requires_grad]
        frozen = [_Kept(spec_of(parameter), parameter.detach().flatten) for parameter in still]
        whole = [kept for kept in (*learned, *frozen) if kept.spec.split is None]
        ties = sorted((name, ranks) for name, ranks in state.held.holders.items() if mesh.pp.rank in ranks)
        self._groups: list[tuple[Axis, Sequence[_Kept]]] = [
            (replicas if in_parts else mesh.data, learned),
            (mesh.data, frozen),
            (mesh.tp, whole),
            *((mesh.subset("pp", ranks), [kept for kept in learned if kept.spec.name == name]) for name, ranks in ties),
        ]

    def check(self, step: int) -> None:
        """Compare all replicas.

        Args:
            step: the last one that is done, for the message.

        Raises:
            TrainingError: some differ; on all ranks alike.
        """
        compared = [_compared(axis, kept) for axis, kept in self._groups if axis.size > 1 and kept]
        found = next((sentence for sentence in compared if sentence is not None), None)
        told = [each for each in collectives.gather_objects(found, self._mesh.world) if each is not None]
        if told:
            raise TrainingError(
                f"step {step}: {told[0]}; nothing is saved of this step. Start the run again, without a machine "
                "that errs: it goes on from its last checkpoint."
            )


def _compared(axis: Axis, parameters: Sequence[_Kept]) -> str | None:
    """Return which of the parameters, the first of them, has other bits on which ranks of the axis."""
    prints = torch.stack([fingerprint(kept.flat()) for kept in parameters]).cpu()
    largest = collectives.all_reduce(prints.clone(), axis, "max", scalar=True)
    smallest = collectives.all_reduce(prints.clone(), axis, "min", scalar=True)
    differing = (largest != smallest).nonzero()
    if not len(differing):
        return None
    first = int(differing[0])
    by_rank: list[int] = collectives.gather_objects(int(prints[first]), axis)
    (usual, count), *_ = Counter(by_rank).most_common()
    name = parameters[first].spec.name
    if count * 2 <= len(by_rank):
        return f"{name} differs between its replicas on ranks {', '.join(str(rank) for rank in axis.ranks)}"
    others = [str(rank) for rank, seen in zip(axis.ranks, by_rank, strict=True) if seen != usual]
    return f"{name} on rank {', '.join(others)} differs from its {count} replicas on other ranks"


def _kept(bucket: Bucket, slot: Slot) -> Tensor:
    """Return the part of a parameter that this rank keeps between steps, flat."""
    if bucket.zero_stage < 3:
        return bucket.values.tensor[slot.start : slot.stop]
    start, stop = (min(max(end - bucket.span.start, 0), len(bucket.shard)) for end in (slot.start, slot.stop))
    return bucket.shard[start:stop]


def fingerprint(flat: Tensor) -> Tensor:
    """Return 64 bits, as an int64 without dims, that depend on every bit of a flat tensor and on its place."""
    bits = flat.view(BITS[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, len(bits), PIECE):
        piece = bits[start : start + PIECE].long()
        place = torch.arange(start + 1, start + 1 + len(piece), device=flat.device)
        mixed = (piece ^ place * MULTIPLIER) * MULTIPLIER
        total += ((mixed ^ mixed >> 29) * MULTIPLIER).sum()
    return total
