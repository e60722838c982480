"""What the data-parallel ranks exchange in one step, in closed form: gradients, and parameters that are shared.

In elements, with Psi parameters and an all-reduce counted twice: stages 0 and 1 move 2 Psi a step, stage 2 (m + 1) Psi
with m micro-batches, and stage 3 up to 3 m Psi: a block's parameters are gathered for its forward and for its backward,
less what stays gathered between two uses (Rajbhandari et al. 2020, section 7).
"""

from collections import Counter
from dataclasses import dataclass

from megalm.ledger import Entry
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.pipeline.action import Kind
from megalm.parallel.pipeline.gathers import with_gathers
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedule import program_of
from megalm.plan.buckets import blocks_read, bucket_elements

BYTES = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Sharing:
    """How the data-parallel ranks share parameters, gradients and optimizer state.

    Args:
        data_size: ranks that see other tokens, dp x cp.
        stage: the ZeRO stage.
        shard_size: ranks that own a part each; 1 at stage 0.
        prefetch: blocks gathered ahead at stage 3.
        schedule: of a pipeline of one rank.
    """

    data_size: int
    stage: int = 0
    shard_size: int = 1
    prefetch: int = 1
    schedule: str = "1f1b"

    @property
    def reduces_often(self) -> bool:
        """Whether gradients are summed after each micro-batch."""
        return self.stage >= 2

    @property
    def shard_axis(self) -> str:
        """The axis of those that own a part each, as the ledger names it."""
        return "dp_cp" if self.shard_size == self.data_size else "shard"

    @property
    def replica_axis(self) -> str:
        """The axis of those that own the same."""
        return "dp_cp" if self.shard_size == 1 else "replicas"


def data_exchange(
    shape: DecoderShape, sharing: Sharing, tp_size: int, num_microbatches: int, dtype: str
) -> Counter[Entry]:
    """Return how often a rank makes each collective over the data ranks, bookkeeping left out but for the norm."""
    entries: Counter[Entry] = Counter()
    if sharing.data_size == 1:
        return entries
    sums = num_microbatches if sharing.reduces_often else 1
    gathers = _gathers(shape, sharing, num_microbatches)
    for elements, times in zip(bucket_elements(shape, tp_size, sharing.shard_size), gathers, strict=True):
        whole, share = elements * BYTES[dtype], elements // sharing.shard_size * BYTES[dtype]
        if sharing.shard_size > 1:
            entries[Entry("reduce_scatter", sharing.shard_axis, dtype, whole)] += sums
            entries[Entry("all_gather", sharing.shard_axis, dtype, whole)] += times
        if sharing.shard_size < sharing.data_size:
            entries[Entry("all_reduce", sharing.replica_axis, dtype, share)] += 1
    if sharing.shard_size > 1:
        entries[Entry("all_reduce", sharing.shard_axis, "float64", 8, scalar=True)] += 1
    return entries


def _gathers(shape: DecoderShape, sharing: Sharing, num_microbatches: int) -> list[int]:
    """Return how often each block's bucket is gathered in a step: after the update, or before each use."""
    num_blocks = shape.num_layers + 2
    if sharing.stage < 3:
        return [1] * num_blocks
    compute = program_of(sharing.schedule, 1, num_microbatches, 1)
    return gathers_of(with_gathers(compute, [num_blocks], sharing.prefetch), shape)


def gathers_of(program: Program, shape: DecoderShape) -> list[int]:
    """Return how often a program of one rank and one stage gathers each block's bucket."""
    read, found, users = blocks_read(shape), [0] * (shape.num_layers + 2), Counter[int]()
    for _, kind, _, block in program.ranks[0]:
        for bucket in read[block] if block is not None and kind in (Kind.GATHER, Kind.RELEASE) else ():
            found[bucket] += kind is Kind.GATHER and users[bucket] == 0
            users[bucket] += 1 if kind is Kind.GATHER else -1
    return found
