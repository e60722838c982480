"""The collectives of one training step of a decoder in closed form: what the ledger will count, to the byte.

Over tp, with activations of A bytes a micro-batch (tokens x hidden x bytes of the dtype), the all-reduce form makes two
all-reduces of A a layer in the forward pass and two in the backward pass, one for the embedding and one for the head's
input gradient. Under sequence parallelism each all-reduce is an all-gather and a reduce-scatter, which is the same
volume, and each layer gathers its two inputs a second time in the backward pass instead of keeping them whole
(Korthikanti et al. 2022, section 4.2.2).

Operations that are computed again by themselves communicate nothing. A layer that is computed again whole sums its
attention once more, unless attention stands beside the MLP, and never its result. Under sequence parallelism it gathers
its two inputs, and keeps them whole for the weight gradients instead of gathering them then.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from megalm.ledger import Entry, Kind
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.tensor.heads import HeadCut
from megalm.parallel.tensor.vocab import CHUNK_TOKENS
from megalm.param_spec import aligned
from megalm.plan.data_exchange import BYTES, Sharing, data_exchange
from megalm.recompute import KEEP_ALL, RecomputeConfig


def step_communication(
    shape: DecoderShape,
    *,
    data_size: int,
    tp_size: int,
    tp_rank: int,
    sequence_parallel: bool,
    microbatch_tokens: Sequence[int],
    dtype: str,
    zero: Sharing | None = None,
    recompute: RecomputeConfig = KEEP_ALL,
) -> Counter[Entry]:
    """Return how often a rank makes each collective in one step without evaluation and without a pipeline.

    Args:
        shape: the model.
        data_size: ranks that see other tokens, dp x cp.
        tp_size: tensor-parallel ranks.
        tp_rank: this rank's position among them; cuts may be uneven.
        sequence_parallel: whether the rows between blocks are cut over tp.
        microbatch_tokens: tokens of each of the rank's micro-batches, padding included.
        dtype: of parameters, activations and gradient sums, ``float32`` or ``float64``.
        zero: what the data ranks share; ``None`` for nothing.
        recompute: what is computed again.
    """
    zero = zero or Sharing(data_size)
    num_reductions = len(microbatch_tokens) if zero.reduces_often else 1
    entries: Counter[Entry] = data_exchange(shape, zero, tp_size, len(microbatch_tokens), dtype)
    if tp_size > 1:
        for tokens in microbatch_tokens:
            rows = -(-tokens // tp_size) * tp_size if sequence_parallel else tokens
            entries.update(_tensor_rows(shape, rows, sequence_parallel, dtype, recompute))
            entries.update(_head_chunks(tokens, dtype))
        for elements in _partial_sums(shape, tp_size, sequence_parallel):
            entries[Entry("all_reduce", "tp", dtype, elements * BYTES[dtype])] += num_reductions
        entries[Entry("all_reduce", "pp_tp", "float64", 8, scalar=True)] += 1
    if data_size > 1:
        entries[Entry("all_reduce", "dp_cp", "int64", 8, scalar=True)] += 1
        entries[Entry("all_reduce", "dp_cp", "float64", 16, scalar=True)] += 1
    return entries


def _tensor_rows(shape: DecoderShape, rows: int, cut: bool, dtype: str, recompute: RecomputeConfig) -> Counter[Entry]:
    """Return the collectives of activations of one micro-batch."""
    borders = 2 * shape.num_layers + 1  # two spans a layer; the embedding ends one, the head begins one
    payload = rows * shape.hidden_size * BYTES[dtype]

    def times(kind: Kind, count: int) -> Counter[Entry]:
        return Counter({Entry(kind, "tp", dtype, payload): count})

    sums = 2 * borders
    if not shape.parallel_residual:
        sums += sum(map(recompute.is_full, range(shape.num_layers)))
    if not cut:
        return times("all_reduce", sums)
    again = 2 * shape.num_layers  # gathers of the layers' inputs: for the weight gradients, or for a recomputation
    return times("all_gather", 2 * borders + again) + times("reduce_scatter", sums)


def _head_chunks(tokens: int, dtype: str) -> Iterator[Entry]:
    """Yield the two small sums of each chunk of logits: the maxima, then denominators and label logits."""
    for first in range(0, tokens, CHUNK_TOKENS):
        chunk = min(CHUNK_TOKENS, tokens - first) * BYTES[dtype]
        yield Entry("all_reduce", "tp", dtype, chunk)
        yield Entry("all_reduce", "tp", dtype, 2 * chunk)


def _partial_sums(shape: DecoderShape, tp_size: int, sequence_parallel: bool) -> Iterator[int]:
    """Yield the elements of each sum of gradients over tp, once a step."""
    norm = aligned(shape.hidden_size) * (1 if shape.rms_norm else 2)
    key_width = shape.num_key_value_heads * shape.head_dim
    cut = HeadCut.of(shape.num_heads, shape.num_key_value_heads, tp_size)
    shared = any(below[1] > above[0] for below, above in zip(cut.key, cut.key[1:], strict=False))
    for _ in range(shape.num_layers):
        if sequence_parallel:
            yield 2 * norm + aligned(shape.hidden_size) * (shape.attention_out_bias + shape.mlp_bias)
        if shared:
            yield from [key_width * shape.hidden_size] * 2
            yield from [key_width] * 2 if shape.attention_bias else []
    if sequence_parallel:
        yield norm
        if shape.learned_positions:
            yield aligned(shape.max_positions * shape.hidden_size)
