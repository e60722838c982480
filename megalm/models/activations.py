"""What a block keeps between forward and backward, in closed form. No torch: the planner reads it.

Counted is what autograd saves, each storage once, parameters left out; and what put-off weight products hold: the rows
that layers have read, and the gradients of their outputs. Without dropout, and with the fused attention core, which
keeps queries, keys, values, its output and one number for each query and head.

Operations that are computed again keep their inputs, and neither their results nor what lies between. A layer that is
computed again whole keeps its input; only while its backward runs does it hold what it would have kept otherwise, its
products' inputs whole. What put-off weight products hold is the same in every mode.
"""

from collections.abc import Set
from dataclasses import dataclass, replace

from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.tensor.heads import HeadCut
from megalm.param_spec import even_ranges
from megalm.recompute import KEEP_ALL, Operation, RecomputeConfig

INT64, BOOL, STATISTIC = 8, 1, 4
"""Bytes of a token's number, of a mark, and of a norm's or the softmax's statistic of a row in fp32."""


@dataclass(frozen=True)
class Kept:
    """Bytes that one block keeps of one micro-batch.

    Args:
        for_backward: from the forward until the backward, or its input half, is done.
        for_weight: from the input half until the weight half.
    """

    for_backward: int
    for_weight: int


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


def kept_by_block(shape: DecoderShape, size: MicroBatchSize, recompute: RecomputeConfig = KEEP_ALL) -> list[Kept]:
    """Return what each block keeps: embedding, layers, head.

    Raises:
        ValueError: the model has dropout, whose masks this does not count.
    """
    if shape.embedding_dropout or shape.attention_dropout or shape.hidden_dropout:
        raise ValueError("the bytes kept by a model with dropout are not known in closed form")
    numbers = (size.tokens + (size.whole_rows if shape.learned_positions else 0)) * INT64
    embedding = Kept(numbers + size.tokens * BOOL, 0)
    head = Kept(_norm(shape, size, again=False) + size.tokens * shape.hidden_size * size.element_size, 0)
    layers = []
    for number in range(shape.num_layers):
        layer = _layer(shape, size, recompute.operations_of(number))
        entry = size.rows * shape.hidden_size * size.element_size
        layers.append(replace(layer, for_backward=entry) if recompute.is_full(number) else layer)
    return [embedding, *layers, head]


def _norm(shape: DecoderShape, size: MicroBatchSize, *, again: bool) -> int:
    """Return what a norm keeps: its input and its statistics; the root-mean-square norm the normed rows too."""
    row = shape.hidden_size * size.element_size
    if again:
        return size.rows * row
    statistic = max(size.element_size, STATISTIC)
    return size.rows * (2 * row + statistic if shape.rms_norm else row + 2 * statistic)


def _layer(shape: DecoderShape, size: MicroBatchSize, again: Set[Operation]) -> Kept:
    cut = HeadCut.of(shape.num_heads, shape.num_key_value_heads, size.tp_size)
    first, last = cut.query[size.tp_rank]
    heads, query = last - first, (last - first) * shape.head_dim
    first, last = cut.key[size.tp_rank]
    key = (last - first) * shape.head_dim
    start, stop = even_ranges(shape.intermediate_size, size.tp_size)[size.tp_rank]
    inner, bytes_ = stop - start, size.element_size
    normed = size.rows * shape.hidden_size * bytes_
    widths = 2 if shape.gated_mlp else 1
    mlp = widths * (1 if "activation" in again else 2) * size.whole_rows * inner * bytes_
    norms = 2 * _norm(shape, size, again="norm" in again)
    if shape.parallel_residual:  # both norms read the same rows
        norms -= normed
    grouped = cut.key_of_query(size.tp_rank) != list(range(last - first))
    core = _core(shape, size, heads, query if grouped else key, grouped)
    if "attention_core" in again:
        core = size.whole_rows * (query + 2 * key) * bytes_
    for_backward = norms + (0 if "norm" in again else 2 * normed) + core + mlp
    out_gradient = size.whole_rows * shape.hidden_size * bytes_
    gradients = size.whole_rows * (query + 2 * key + widths * inner) * bytes_
    gradients += out_gradient * (1 if shape.parallel_residual and not size.cut else 2)
    read = 2 * normed + size.tokens * query * bytes_ + size.whole_rows * inner * bytes_
    return Kept(for_backward, read + gradients)


def _core(shape: DecoderShape, size: MicroBatchSize, heads: int, keys: int, grouped: bool) -> int:
    """Return what attention's core keeps; what rotates or is repeated for its query heads is a copy without padding."""
    query, rotates = heads * shape.head_dim, shape.rotary_dim > 0
    rows = size.tokens if rotates else size.whole_rows, size.tokens if rotates or grouped else size.whole_rows
    value_rows = size.tokens if grouped else size.whole_rows
    numbers = rows[0] * query + (rows[1] + value_rows) * keys + size.tokens * query
    tables = 4 * size.tokens * (shape.rotary_dim // 2)
    statistics = size.tokens * heads * max(size.element_size, STATISTIC)
    return (numbers + tables) * size.element_size + statistics + (heads * INT64 if grouped else 0)
