"""The layers of an encoder, and those of a decoder that attends to it.

What flows is named: an encoder's layers pass on ``encoder``, a decoder's ``decoder`` and, as it came, ``encoder``, so
that stages of a pipeline hand on what the layers after them attend to.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from megalm.batch import MicroBatch
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
ENCODER, DECODER = "encoder", "decoder"


def norm_of(shape: EncoderDecoderShape, axis: Axis, sequence_parallel: bool) -> nn.Module:
    """Return a norm of the rows."""
    norm = RMSNorm if shape.rms_norm else LayerNorm
    return norm(shape.hidden_size, axis, eps=shape.eps, sequence_parallel=sequence_parallel)


class Residual(nn.Module):
    """What a span makes of the normed rows, added to the rows.

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
        self.recomputed: frozenset[Operation] = frozenset()

    def forward(self, x: Tensor, token_rows: Tensor, span: Callable[[Tensor], Tensor]) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden]."""
        made = through(self.norm, [x], span, recompute="norm" in self.recomputed)
        return x + self.dropout(made, token_rows)  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention of a source to itself, to both sides, and an MLP.

    Args:
        shape: of the model.
        axis: the tensor axis.
        relative: the stack's table, of all its layers.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(self, shape: EncoderDecoderShape, axis: Axis, relative: RelativeBias, sequence_parallel: bool) -> None:
        """See the class."""
        super().__init__()
        stack = shape.encoder
        self.self_attn = SelfAttention(stack.attention, axis, None, causal=False, sequence_parallel=sequence_parallel)
        self.self_attn_residual = Residual(shape, axis, sequence_parallel)
        self.mlp = mlp_of(shape, stack, axis, sequence_parallel)
        self.mlp_residual = Residual(shape, axis, sequence_parallel)
        self.relative_attention_bias = relative

    def forward(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Map the rows [n, hidden] of the source."""
        return self._rows(flow, batch, again=False)

    def again(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Build the graph of ``forward`` for a backward: the rows are not read, so their last sums are left out."""
        return self._rows(flow, batch, again=True)

    def _rows(self, flow: Rows, batch: MicroBatch, *, again: bool) -> Rows:
        assert batch.source is not None
        source = batch.source
        token_rows = source.rows_bs.flatten()
        bias_hqk = self.relative_attention_bias(source.tokens_bs.shape[1])

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, source, bias_hqk=bias_hqk, again=again)  # type: ignore[no-any-return]

        def think(x: Tensor) -> Tensor:
            return self.mlp(x, token_rows, again=again, read=not again)  # type: ignore[no-any-return]

        x = self.self_attn_residual(flow[ENCODER], token_rows, attend)
        return {ENCODER: self.mlp_residual(x, token_rows, think)}


class DecoderLayer(nn.Module):
    """Attention of a target to what came before, attention to the source, and an MLP; see ``EncoderLayer``."""

    def __init__(self, shape: EncoderDecoderShape, axis: Axis, relative: RelativeBias, sequence_parallel: bool) -> None:
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

    def forward(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Map the rows [n, hidden] of the target; those of the source flow on."""
        return self._rows(flow, batch, again=False)

    def again(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Build the graph of ``forward`` for a backward: the rows are not read, so their last sums are left out."""
        return self._rows(flow, batch, again=True)

    def _rows(self, flow: Rows, batch: MicroBatch, *, again: bool) -> Rows:
        token_rows, encoded = batch.rows_bs.flatten(), flow[ENCODER]
        bias_hqk = self.relative_attention_bias(batch.tokens_bs.shape[1])

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, batch, bias_hqk=bias_hqk, again=again)  # type: ignore[no-any-return]

        def look(x: Tensor) -> Tensor:
            return self.cross_attn(x, encoded, batch, again=again)  # type: ignore[no-any-return]

        def think(x: Tensor) -> Tensor:
            return self.mlp(x, token_rows, again=again, read=not again)  # type: ignore[no-any-return]

        x = self.self_attn_residual(flow[DECODER], token_rows, attend)
        x = self.cross_attn_residual(x, token_rows, look)
        return {ENCODER: encoded, DECODER: self.mlp_residual(x, token_rows, think)}


def mlp_of(shape: EncoderDecoderShape, stack: StackShape, axis: Axis, sequence_parallel: bool) -> nn.Module:
    """Return the MLP of a layer."""
    mlp = GatedMlp if shape.gated_mlp else Mlp
    return mlp(stack.mlp, axis, sequence_parallel=sequence_parallel)
