"""The flat buckets of a decoder on paper: how many elements each block's takes, padding included."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.tensor.heads import HeadCut
from megalm.parallel.tensor.vocab import vocab_ranges
from megalm.param_spec import ALIGNMENT, aligned, even_ranges

T = TypeVar("T")


@dataclass(frozen=True)
class LocalTensor:
    """What a tensor rank holds of a trainable tensor.

    Args:
        shape: of its slice.
        first: where the slice's last dim begins in the whole tensor.
        partial: whether its gradient is partial over the tensor ranks under sequence parallelism.
    """

    shape: tuple[int, ...]
    first: int = 0
    partial: bool = False

    @property
    def num_elements(self) -> int:
        """How many it has."""
        return prod(self.shape)


def local_tensors(shape: DecoderShape, tp_size: int, tp_rank: int) -> list[list[LocalTensor]]:
    """Return each trainable tensor as a rank holds it, block by block: embedding, layers, head."""
    hidden = shape.hidden_size
    cut = HeadCut.of(shape.num_heads, shape.num_key_value_heads, tp_size)
    query, key = (HeadCut.features(ranges, shape.head_dim)[tp_rank] for ranges in (cut.query, cut.key))
    inner = even_ranges(shape.intermediate_size, tp_size)[tp_rank]
    vocabulary = vocab_ranges(shape.vocab_size, tp_size)[tp_rank]

    def column(features: tuple[int, int]) -> LocalTensor:
        return LocalTensor((features[1] - features[0], hidden))

    def row(features: tuple[int, int]) -> LocalTensor:
        return LocalTensor((hidden, features[1] - features[0]), features[0])

    def bias(features: tuple[int, int]) -> LocalTensor:
        return LocalTensor((features[1] - features[0],), features[0])

    vector = LocalTensor((hidden,), partial=True)
    norm = [vector] * (1 if shape.rms_norm else 2)
    widths = [inner] * (2 if shape.gated_mlp else 1)
    layer = [column(query), column(key), column(key), row(query), *map(column, widths), row(inner), *2 * norm]
    layer += [bias(query), bias(key), bias(key)] if shape.attention_bias else []
    layer += [vector] if shape.attention_out_bias else []
    layer += [*map(bias, widths), vector] if shape.mlp_bias else []
    positions = [LocalTensor((shape.max_positions, hidden), partial=True)] if shape.learned_positions else []
    table = column(vocabulary)
    return [[table, *positions], *[layer] * shape.num_layers, norm if shape.tied else [*norm, table]]


def rooms(shape: DecoderShape, tp_size: int) -> list[list[int]]:
    """Return the room of each trainable tensor, block by block: that of the largest slice of any tensor rank."""
    by_rank = [local_tensors(shape, tp_size, rank) for rank in range(tp_size)]
    return [
        [aligned(max(held.num_elements for held in slices)) for slices in zip(*blocks, strict=True)]
        for blocks in zip(*by_rank, strict=True)
    ]


def bucket_elements(shape: DecoderShape, tp_size: int, shard_size: int) -> list[int]:
    """Return the elements of each block's bucket, in equal shares."""
    return [in_shares(sum(sizes), shard_size) for sizes in rooms(shape, tp_size)]


def by_bucket(
    of_blocks: Sequence[Sequence[T]], shape: DecoderShape, blocks: Sequence[int], apart: bool
) -> list[list[T]]:
    """Return what is known of each tensor, block by block, for each bucket of a rank.

    Args:
        of_blocks: of the whole model, in the order of ``local_tensors``.
        shape: the model.
        blocks: numbers of the blocks that the rank holds: 0 the embedding, then the layers, then the head.
        apart: whether a tied table lies in a bucket of its own, since two ranks of the pipeline hold a copy.
    """
    found: list[list[T]] = []
    for block in blocks:
        known = list(of_blocks[block])
        if apart and shape.tied and block in (0, shape.num_layers + 1):
            found += [known[1:] if block == 0 else known, [of_blocks[0][0]]]
        else:
            found.append(known)
    return found


def in_shares(elements: int, shard_size: int) -> int:
    """Return the elements of a bucket of ``shard_size`` equal and aligned shares."""
    multiple = ALIGNMENT * shard_size
    return -(-elements // multiple) * multiple


def blocks_read(shape: DecoderShape) -> Sequence[tuple[int, ...]]:
    """Return for each block the blocks whose buckets it reads: its own, and a tied head the embedding's too."""
    last = shape.num_layers + 1
    return [(block, 0) if block == last and shape.tied else (block,) for block in range(last + 1)]
