"""What a block keeps between forward and backward, in closed form. No torch: the planner reads it.

Counted is what autograd saves, each storage once, parameters left out; and what put-off weight products hold: the rows
that layers have read, and the gradients of their outputs. Without dropout, and with the fused attention core, which
keeps queries, keys, values, its output and one number for each query and head; a sparse core keeps no such number. Of
a model in 16 bits it is what a CPU keeps, which makes the core and the root-mean-square norm in fp32.

Operations that are computed again keep their inputs, and neither their results nor what lies between. A layer that is
computed again whole keeps its input; only while its backward runs does it hold what it would have kept otherwise, its
products' inputs whole. What put-off weight products hold is the same in every mode.

What is offloaded of this is on the host from a layer's forward to its backward, but for two layers: the one that leaves
while the next goes forward, and the one that comes while that above it goes backward, are on the device too.
"""

import math
from collections.abc import Set
from dataclasses import dataclass

from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.tensor.heads import HeadCut
from megalm.param_spec import even_ranges
from megalm.recompute import KEEP_ALL, SMALLEST_OFFLOADED, Operation, RecomputeConfig

INT64, BOOL, FP32 = 8, 1, 4
"""Bytes of a token's number, of a mark, and of the narrowest number of the softmax's statistics."""


@dataclass(frozen=True)
class Kept:
    """Bytes that one block keeps of one micro-batch.

    Args:
        for_backward: from the forward until the backward, or its input half, is done.
        for_weight: from the input half until the weight half.
        on_host: what is offloaded beside ``for_backward``.
    """

    for_backward: int
    for_weight: int
    on_host: int = 0


@dataclass(frozen=True)
class MicroBatchSize:
    """What the bytes depend on beside the model.

    Args:
        samples: of the micro-batch.
        seq_length: tokens of a sample.
        element_size: bytes of a number.
        tp_size: tensor-parallel ranks.
        tp_rank: this rank's position among them; cuts may be uneven.
        sequence_parallel: whether the rows between blocks are cut over tp.
    """

    samples: int
    seq_length: int
    element_size: int = 4
    tp_size: int = 1
    tp_rank: int = 0
    sequence_parallel: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.samples * self.seq_length

    @property
    def wide(self) -> int:
        """Bytes of a number where a CPU makes 32 bits out of 16: in tables, the attention core, some norms."""
        return max(self.element_size, FP32)

    @property
    def cut(self) -> bool:
        """Whether this rank holds only its share of the rows between blocks."""
        return self.sequence_parallel and self.tp_size > 1

    @property
    def rows(self) -> int:
        """Rows that this rank holds between blocks, padding included."""
        return -(-self.tokens // self.tp_size) if self.cut else self.tokens

    @property
    def whole_rows(self) -> int:
        """Rows inside a span, padding included."""
        return self.rows * self.tp_size if self.cut else self.tokens


def kept_by_block(
    shape: DecoderShape,
    size: MicroBatchSize,
    recompute: RecomputeConfig = KEEP_ALL,
    smallest_offloaded: int = SMALLEST_OFFLOADED,
) -> list[Kept]:
    """Return what each block keeps: embedding, layers, head.

    Args:
        shape: the model.
        size: of the micro-batch.
        recompute: what is computed again, and whether layers are offloaded.
        smallest_offloaded: bytes of the smallest storage that is.

    Raises:
        ValueError: the model has dropout, whose masks this does not count.
    """
    if shape.embedding_dropout or shape.attention_dropout or shape.hidden_dropout:
        raise ValueError("the bytes kept by a model with dropout are not known in closed form")
    numbers = (size.tokens + (size.whole_rows if shape.learned_positions else 0)) * INT64
    embedding = Kept(numbers + size.tokens * BOOL, 0)
    head = Kept(sum(_norm(shape, size, again=False)) + size.tokens * shape.hidden_size * size.element_size, 0)
    layers = []
    for number in range(shape.num_layers):
        again = recompute.operations_of(number)
        entry = size.rows * shape.hidden_size * size.element_size
        storages = [entry] if recompute.is_full(number) else _layer(shape, size, number, again)
        smallest = math.inf if recompute.offload == "none" else smallest_offloaded
        moved = sum(storage for storage in storages if storage >= smallest)
        layers.append(Kept(sum(storages) - moved, _put_off(shape, size), moved))
    return [embedding, *layers, head]


def _norm(shape: DecoderShape, size: MicroBatchSize, *, again: bool) -> list[int]:
    """Return what a norm keeps: its input and its statistics; the root-mean-square norm the normed rows too, wide."""
    if again:
        return [size.rows * shape.hidden_size * size.element_size]
    if shape.rms_norm:
        wide = size.rows * shape.hidden_size * size.wide
        return [wide, wide, size.rows * size.wide]
    statistic = size.rows * size.element_size
    return [size.rows * shape.hidden_size * size.element_size, statistic, statistic]


@dataclass(frozen=True)
class _Widths:
    """Numbers of a row inside a layer on one rank: of queries, keys, and the MLP's inner rows."""

    heads: int
    query: int
    key: int
    inner: int

    @staticmethod
    def of(shape: DecoderShape, size: MicroBatchSize) -> "_Widths":
        cut = HeadCut.of(shape.num_heads, shape.num_key_value_heads, size.tp_size)
        first, last = cut.query[size.tp_rank]
        first_key, last_key = cut.key[size.tp_rank]
        start, stop = even_ranges(shape.intermediate_size, size.tp_size)[size.tp_rank]
        heads = last - first
        return _Widths(heads, heads * shape.head_dim, (last_key - first_key) * shape.head_dim, stop - start)


def _layer(shape: DecoderShape, size: MicroBatchSize, number: int, again: Set[Operation]) -> list[int]:
    """Return the bytes of each storage that a layer keeps for its backward."""
    widths, bytes_ = _Widths.of(shape, size), size.element_size
    normed = size.rows * shape.hidden_size * bytes_
    norms = 2 * _norm(shape, size, again="norm" in again) + ([] if "norm" in again else 2 * [normed])
    if shape.parallel_residual:  # both norms read the same rows
        norms.remove(normed)
    if "attention_core" in again:
        core = [size.whole_rows * width * bytes_ for width in (widths.query, widths.key, widths.key)]
    else:
        core = _core(shape, size, number, widths)
    num_inner = (2 if shape.gated_mlp else 1) * (1 if "activation" in again else 2)
    return norms + core + num_inner * [size.whole_rows * widths.inner * bytes_]


def _put_off(shape: DecoderShape, size: MicroBatchSize) -> int:
    """Return what a layer's weight products hold when they are put off."""
    widths, bytes_ = _Widths.of(shape, size), size.element_size
    out_gradient = size.whole_rows * shape.hidden_size * bytes_
    num_inner = 2 if shape.gated_mlp else 1
    gradients = size.whole_rows * (widths.query + 2 * widths.key + num_inner * widths.inner) * bytes_
    gradients += out_gradient * (1 if shape.parallel_residual and not size.cut else 2)
    normed = size.rows * shape.hidden_size * bytes_
    return 2 * normed + size.tokens * widths.query * bytes_ + size.whole_rows * widths.inner * bytes_ + gradients


def _core(shape: DecoderShape, size: MicroBatchSize, number: int, widths: _Widths) -> list[int]:
    """Return what attention's core keeps; what rotates or is repeated for its query heads is a copy without padding."""
    cut = HeadCut.of(shape.num_heads, shape.num_key_value_heads, size.tp_size)
    grouped = cut.key_of_query(size.tp_rank) != list(range(widths.heads))
    rotates, widens, keys = shape.rotary_dim > 0, size.wide > size.element_size, widths.query if grouped else widths.key
    numbers = [
        (size.tokens if rotates or widens else size.whole_rows) * widths.query,
        (size.tokens if rotates or grouped or widens else size.whole_rows) * keys,
        (size.tokens if grouped or widens else size.whole_rows) * keys,
        size.tokens * widths.query,
        *(4 * [size.tokens * (shape.rotary_dim // 2)] if rotates else []),
        *([] if shape.is_sparse(number, size.seq_length) else [size.tokens * widths.heads]),
    ]
    narrow_output = [size.tokens * widths.query * size.element_size] if widens else []  # what the output product reads
    index = [widths.heads * INT64] if grouped else []
    return [number * size.wide for number in numbers] + narrow_output + index
