"""The flat buckets of a decoder on paper: how many elements each block's takes, padding included."""

from collections.abc import Sequence

from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.tensor.heads import HeadCut
from megalm.parallel.tensor.vocab import vocab_ranges
from megalm.param_spec import ALIGNMENT, aligned, even_ranges


def local_tensors(shape: DecoderShape, tp_size: int, tp_rank: int) -> list[list[int]]:
    """Return the elements of each trainable tensor that a rank holds, block by block: embedding, layers, head."""

    def held(ranges: tuple[tuple[int, int], ...]) -> int:
        start, stop = ranges[tp_rank]
        return stop - start

    hidden = shape.hidden_size
    cut = HeadCut.of(shape.num_heads, shape.num_key_value_heads, tp_size)
    query, key = held(cut.query) * shape.head_dim, held(cut.key) * shape.head_dim
    inner = held(even_ranges(shape.intermediate_size, tp_size))
    table = held(vocab_ranges(shape.vocab_size, tp_size)) * hidden
    norm = [hidden] * (1 if shape.rms_norm else 2)
    widths = [inner] * (2 if shape.gated_mlp else 1)
    layer = [hidden * width for width in (query, key, key, query, *widths, inner)] + 2 * norm
    layer += [query, key, key, hidden] if shape.attention_bias else []
    layer += [*widths, hidden] if shape.mlp_bias else []
    positions = [shape.max_positions * hidden] if shape.learned_positions else []
    return [[table, *positions], *[layer] * shape.num_layers, norm if shape.tied else [*norm, table]]


def rooms(shape: DecoderShape, tp_size: int) -> list[list[int]]:
    """Return the room of each trainable tensor, block by block: that of the largest slice of any tensor rank."""
    by_rank = [local_tensors(shape, tp_size, rank) for rank in range(tp_size)]
    return [[aligned(max(sizes)) for sizes in zip(*blocks, strict=True)] for blocks in zip(*by_rank, strict=True)]


def bucket_elements(shape: DecoderShape, tp_size: int, shard_size: int) -> list[int]:
    """Return the elements of each block's bucket, in equal shares."""
    return [in_shares(sum(sizes), shard_size) for sizes in rooms(shape, tp_size)]


def in_shares(elements: int, shard_size: int) -> int:
    """Return the elements of a bucket of ``shard_size`` equal and aligned shares."""
    multiple = ALIGNMENT * shard_size
    return -(-elements // multiple) * multiple


def blocks_read(shape: DecoderShape) -> Sequence[tuple[int, ...]]:
    """Return for each block the blocks whose buckets it reads: its own, and a tied head the embedding's too."""
    last = shape.num_layers + 1
    return [(block, 0) if block == last and shape.tied else (block,) for block in range(last + 1)]
