"""An encoder and a decoder that attends to it, in the shape of T5."""

import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.mesh import Axis
from megalm.models.config import ModelConfig
from megalm.models.encoder_decoder_layers import DECODER, ENCODER, DecoderLayer, EncoderLayer, Rows, norm_of
from megalm.models.encoder_decoder_shape import EncoderDecoderShape
from megalm.models.relative_bias import RelativeBias
from megalm.parallel.tensor.cross_entropy import VocabParallelHead
from megalm.parallel.tensor.dropout import Dropout
from megalm.parallel.tensor.embedding import VocabParallelEmbedding


class Stack(nn.Module):
    """The layers of an encoder or of a decoder, and what stands around them.

    Args:
        shape: of the model.
        axis: the tensor axis.
        sequence_parallel: whether the rows between blocks are cut over the axis.
        decodes: whether it is the decoder.
    """

    def __init__(self, shape: EncoderDecoderShape, axis: Axis, sequence_parallel: bool, *, decodes: bool) -> None:
        """See the class."""
        super().__init__()
        stack = shape.decoder if decodes else shape.encoder
        layer = DecoderLayer if decodes else EncoderLayer
        self.embed_dropout = Dropout(shape.dropout, axis, sequence_parallel=sequence_parallel)
        self.relative_attention_bias = RelativeBias(shape.relative, stack.attention.num_heads, axis, causal=decodes)
        self.layers = nn.ModuleList(
            layer(shape, axis, self.relative_attention_bias, sequence_parallel) for _ in range(stack.num_layers)
        )
        self.norm = norm_of(shape, axis, sequence_parallel)
        self.dropout = Dropout(shape.dropout, axis, sequence_parallel=sequence_parallel)


class EncoderEmbedding(nn.Module):
    """The first block: tokens of the source to rows."""

    def __init__(self, shared: VocabParallelEmbedding, dropout: Dropout) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.shared, self.dropout = shared, dropout

    def forward(self, _: None, batch: MicroBatch) -> Rows:
        """Return the rows [n, hidden] of the source."""
        assert batch.source is not None, "an encoder-decoder needs micro-batches with a source: objective.name=seq2seq"
        source = batch.source
        return {ENCODER: self.dropout(self.shared(source.tokens_bs.flatten()), source.rows_bs.flatten())}


class DecoderEmbedding(nn.Module):
    """The block between the stacks: the end of the encoder, and tokens of the target to rows."""

    def __init__(
        self, encoder_norm: nn.Module, encoder_dropout: Dropout, shared: VocabParallelEmbedding, dropout: Dropout
    ) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.encoder_norm, self.encoder_dropout = encoder_norm, encoder_dropout
        self.shared, self.dropout = shared, dropout

    def forward(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Return the rows [n, hidden] of the source, as all layers of the decoder see them, and those of the target."""
        assert batch.source is not None
        encoded = self.encoder_dropout(self.encoder_norm(flow[ENCODER]), batch.source.rows_bs.flatten())
        return {
            ENCODER: encoded,
            DECODER: self.dropout(self.shared(batch.tokens_bs.flatten()), batch.rows_bs.flatten()),
        }


class Head(nn.Module):
    """The last block: the decoder's end, output head and cross entropy."""

    def __init__(self, norm: nn.Module, dropout: Dropout, scale: float, lm_head: VocabParallelHead) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.norm, self.dropout, self.scale, self.lm_head = norm, dropout, scale, lm_head

    def forward(self, flow: Rows, batch: MicroBatch) -> Tensor:
        """Return the micro-batch's share of the global batch's loss."""
        loss: Tensor = self.lm_head(self.rows(flow, batch), batch.labels_bs.flatten(), batch.loss_scale)
        return loss

    def rows(self, flow: Rows, batch: MicroBatch) -> Tensor:
        """Return the rows [n, hidden] that the output head reads."""
        rows: Tensor = self.dropout(self.norm(flow[DECODER]), batch.rows_bs.flatten()) * self.scale
        return rows


class EncoderDecoder(nn.Module):
    """Embeddings, both stacks and the head.

    Args:
        config: a resolved model section of one of the encoder-decoder families.
        axis: the tensor axis.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(self, config: ModelConfig, axis: Axis, sequence_parallel: bool = False) -> None:
        """See the class."""
        super().__init__()
        shape = EncoderDecoderShape.of(config)
        self.shared = VocabParallelEmbedding(
            shape.vocab_size, shape.hidden_size, axis, std=shape.table_std, sequence_parallel=sequence_parallel
        )
        self.encoder = Stack(shape, axis, sequence_parallel, decodes=False)
        self.decoder = Stack(shape, axis, sequence_parallel, decodes=True)
        self.lm_head = VocabParallelHead(
            shape.vocab_size,
            shape.hidden_size,
            axis,
            weight=self.shared.weight if shape.tied else None,
            std=shape.table_std,
            sequence_parallel=sequence_parallel,
        )
        self.head_scale = shape.head_scale

    def blocks(self) -> list[nn.Module]:
        """Return what the rows pass through, in order: the spans that a stage may be made of."""
        encoder, decoder = self.encoder, self.decoder
        return [
            EncoderEmbedding(self.shared, encoder.embed_dropout),
            *encoder.layers,
            DecoderEmbedding(encoder.norm, encoder.dropout, self.shared, decoder.embed_dropout),
            *decoder.layers,
            self._head(),
        ]

    def logits(self, batch: MicroBatch) -> Tensor:
        """Return this rank's columns of the logits [whole rows of the target, local vocabulary]."""
        first, *layers, head = self.blocks()
        flow: Rows = first(None, batch)
        for layer in layers:
            flow = layer(flow, batch)
        return self.lm_head.logits(head.rows(flow, batch))  # type: ignore[operator]

    def _head(self) -> Head:
        return Head(self.decoder.norm, self.decoder.dropout, self.head_scale, self.lm_head)


def build_encoder_decoder(config: ModelConfig, axis: Axis, sequence_parallel: bool) -> nn.Module:
    """Build the model of a ``t5`` section."""
    with torch.device("meta"):
        return EncoderDecoder(config, axis, sequence_parallel)
