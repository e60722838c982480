"""The bytes of optimizer state of 8 bits that a rank keeps, in closed form.

An element of a matrix takes a byte of each moment, and a block of ``BLOCK_SIZE`` of them, or a shorter one at the end
of a row, four more: about 2 + 8 / 256 bytes a parameter with two moments, where wide ones take 8. A block that is cut
is counted by every rank that has a part of it. Vectors keep wide moments. No torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from megalm.models.decoder_shape import DecoderShape
from megalm.optim.blocks import Place, StateSizes
from megalm.plan.buckets import LocalTensor, by_bucket, in_shares, local_tensors, rooms


@dataclass(frozen=True)
class RankPlace:
    """Where a rank stands, as far as its state depends on it.

    Args:
        tp_size: tensor-parallel ranks.
        tp_rank: this rank's position among them.
        shard_size: ranks that own a part each.
        shard_rank: this rank's position among them.
        sequence_parallel: whether the rows between blocks are cut over tp.
    """

    tp_size: int = 1
    tp_rank: int = 0
    shard_size: int = 1
    shard_rank: int = 0
    sequence_parallel: bool = False


def state_sizes(shape: DecoderShape, rank: RankPlace, blocks: Sequence[int], *, apart: bool = False) -> StateSizes:
    """Return the numbers that a rank keeps for one name of a rule.

    Args:
        shape: the model.
        rank: where it stands.
        blocks: the blocks that it holds, see ``buckets_of_rank``.
        apart: whether a tied table lies in a bucket of its own.
    """
    slices = by_bucket(local_tensors(shape, rank.tp_size, rank.tp_rank), shape, blocks, apart)
    total = StateSizes()
    for held, sizes in zip(slices, by_bucket(rooms(shape, rank.tp_size), shape, blocks, apart), strict=True):
        share = in_shares(sum(sizes), rank.shard_size) // rank.shard_size
        for place in _places(held, sizes, rank):
            total += place.sizes(rank.shard_rank * share, (rank.shard_rank + 1) * share)
    return total


def _places(held: Sequence[LocalTensor], sizes: Sequence[int], rank: RankPlace) -> list[Place]:
    """Lay the tensors of a bucket out as it does: what is partial behind the rest, there and here vectors first."""

    def order(pair: tuple[LocalTensor, int]) -> tuple[bool, bool]:
        partial = rank.sequence_parallel and rank.tp_size > 1 and pair[0].partial
        return partial, len(pair[0].shape) > 1

    places: list[Place] = []
    for tensor, room in sorted(zip(held, sizes, strict=True), key=order):
        start = places[-1].end if places else 0
        places.append(Place(tensor.shape, tensor.first, start, start + room))
    return places
