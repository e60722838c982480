"""The layers of an encoder, and those of a decoder that attends to it.

What flows is named: an encoder's layers pass on ``encoder``, a decoder's ``decoder`` and, as it came, ``encoder``, so
that stages of a pipeline hand on what the layers after them attend to. Where text is generated, only the first token
needs the encoder; after it nothing flows there.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from megalm.batch import MicroBatch, Source
from megalm.mesh import Axis
from megalm.models.attention import CrossAttention, SelfAttention
from megalm.models.encoder_decoder_shape import EncoderDecoderShape, StackShape
from megalm.models.mlp import GatedMlp, Mlp
from megalm.models.relative_bias import RelativeBias
from megalm.parallel.tensor.dropout import Dropout
from megalm.parallel.tensor.norm import LayerNorm, RMSNorm
from megalm.parallel.tensor.recomputed import through
from megalm.recompute import Operation

Rows = Mapping[str, Tensor]
Span = Callable[[Tensor], Tensor]
ENCODER, DECODER = "encoder", "decoder"


def norm_of(shape: EncoderDecoderShape, axis: Axis, sequence_parallel: bool) -> nn.Module:
    """Return a norm of the rows."""
    norm = RMSNorm if shape.rms_norm else LayerNorm
    return norm(shape.hidden_size, axis, eps=shape.eps, sequence_parallel=sequence_parallel)


class Residual(nn.Module):
    """A sum of rows and of what a span makes of them, with a norm before the span or behind the sum.

    Args:
        shape: of the model.
        axis: the tensor axis.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(self, shape: EncoderDecoderShape, axis: Axis, sequence_parallel: bool) -> None:
        """See the class."""
        super().__init__()
        self.norm = norm_of(shape, axis, sequence_parallel)
        self.dropout = Dropout(shape.dropout, axis, sequence_parallel=sequence_parallel)
        self.post_norm = shape.post_norm
        self.recomputed: frozenset[Operation] = frozenset()

    def forward(self, x: Tensor, token_rows: Tensor, span: Span, then: Span) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden].

        Args:
            x: the rows.
            token_rows: int64 [t], the run-wide numbers of the micro-batch's tokens.
            span: what is added.
            then: what reads the result, and gives what is returned.
        """
        again = "norm" in self.recomputed
        if self.post_norm:
            return through(self.norm, [x + self.dropout(span(x), token_rows)], then, recompute=again)
        return then(x + self.dropout(through(self.norm, [x], span, recompute=again), token_rows))


class EncoderLayer(nn.Module):
    """Attention of a source to itself, to both sides, and an MLP.

    Args:
        shape: of the model.
        axis: the tensor axis.
        relative: the stack's bias of attention, of all its layers, if it has one.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(
        self, shape: EncoderDecoderShape, axis: Axis, relative: RelativeBias | None, sequence_parallel: bool
    ) -> None:
        """See the class."""
        super().__init__()
        stack = shape.encoder
        self.self_attn = SelfAttention(stack.attention, axis, None, causal=False, sequence_parallel=sequence_parallel)
        self.self_attn_residual = Residual(shape, axis, sequence_parallel)
        self.mlp = mlp_of(shape, stack, axis, sequence_parallel)
        self.mlp_residual = Residual(shape, axis, sequence_parallel)
        self.relative_attention_bias = relative
        self.post_norm = shape.post_norm

    def forward(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Map the rows [n, hidden] of the source."""
        return self._rows(flow, batch, again=False)

    def again(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Build the graph of ``forward`` for a backward: sums that only the result needs are left out."""
        return self._rows(flow, batch, again=True)

    def _rows(self, flow: Rows, batch: MicroBatch, *, again: bool) -> Rows:
        if not batch.reads_source:
            return {}
        assert batch.source is not None
        source, read = batch.source, self.post_norm or not again
        token_rows = source.rows_bs.flatten()
        bias_hqk = bias_of(self.relative_attention_bias, source)

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, source, bias_hqk=bias_hqk, again=again)  # type: ignore[no-any-return]

        def think(x: Tensor) -> Tensor:
            return self.mlp(x, token_rows, again=again, read=read)  # type: ignore[no-any-return]

        def then_think(x: Tensor) -> Tensor:
            return self.mlp_residual(x, token_rows, think, unchanged)  # type: ignore[no-any-return]

        return {ENCODER: self.self_attn_residual(flow[ENCODER], token_rows, attend, then_think)}


class DecoderLayer(nn.Module):
    """Attention of a target to what came before, attention to the source, and an MLP; see ``EncoderLayer``."""

    def __init__(
        self, shape: EncoderDecoderShape, axis: Axis, relative: RelativeBias | None, sequence_parallel: bool
    ) -> None:
        """See the class."""
        super().__init__()
        stack = shape.decoder
        self.self_attn = SelfAttention(stack.attention, axis, None, causal=True, sequence_parallel=sequence_parallel)
        self.self_attn_residual = Residual(shape, axis, sequence_parallel)
        self.cross_attn = CrossAttention(stack.attention, axis, sequence_parallel=sequence_parallel)
        self.cross_attn_residual = Residual(shape, axis, sequence_parallel)
        self.mlp = mlp_of(shape, stack, axis, sequence_parallel)
        self.mlp_residual = Residual(shape, axis, sequence_parallel)
        self.relative_attention_bias = relative
        self.post_norm = shape.post_norm

    def forward(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Map the rows [n, hidden] of the target; those of the source flow on."""
        return self._rows(flow, batch, again=False)

    def again(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Build the graph of ``forward`` for a backward: sums that only the result needs are left out."""
        return self._rows(flow, batch, again=True)

    def _rows(self, flow: Rows, batch: MicroBatch, *, again: bool) -> Rows:
        token_rows, encoded, read = batch.rows_bs.flatten(), flow.get(ENCODER), self.post_norm or not again
        bias_hqk = bias_of(self.relative_attention_bias, batch)

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, batch, bias_hqk=bias_hqk, again=again)  # type: ignore[no-any-return]

        def look(x: Tensor) -> Tensor:
            return self.cross_attn(x, encoded, batch, again=again)  # type: ignore[no-any-return]

        def think(x: Tensor) -> Tensor:
            return self.mlp(x, token_rows, again=again, read=read)  # type: ignore[no-any-return]

        def then_look(x: Tensor) -> Tensor:
            return self.cross_attn_residual(x, token_rows, look, then_think)  # type: ignore[no-any-return]

        def then_think(x: Tensor) -> Tensor:
            return self.mlp_residual(x, token_rows, think, unchanged)  # type: ignore[no-any-return]

        rows = self.self_attn_residual(flow[DECODER], token_rows, attend, then_look)
        return {DECODER: rows} if encoded is None else {ENCODER: encoded, DECODER: rows}


def bias_of(relative: RelativeBias | None, batch: MicroBatch | Source) -> Tensor | None:
    """Return the bias [local heads, queries, keys] of a stack's attention to itself, if it has one.

    Sequences of which a cache keeps the beginning are equally long.
    """
    if relative is None:
        return None
    cache = batch.cache if isinstance(batch, MicroBatch) else None
    return relative(batch.tokens_bs.shape[1], 0 if cache is None else cache.longest)  # type: ignore[no-any-return]


def unchanged(x: Tensor) -> Tensor:
    """Return the rows."""
    return x


def mlp_of(shape: EncoderDecoderShape, stack: StackShape, axis: Axis, sequence_parallel: bool) -> nn.Module:
    """Return the MLP of a layer."""
    mlp = GatedMlp if shape.gated_mlp else Mlp
    return mlp(stack.mlp, axis, sequence_parallel=sequence_parallel)
