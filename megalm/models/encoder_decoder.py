"""An encoder and a decoder that attends to it, in the shapes of T5 and BART."""

import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch, Source
from megalm.mesh import Axis
from megalm.models.config import ModelConfig
from megalm.models.encoder_decoder_layers import DECODER, ENCODER, DecoderLayer, EncoderLayer, Rows, norm_of
from megalm.models.encoder_decoder_shape import EncoderDecoderShape
from megalm.models.relative_bias import RelativeBias
from megalm.models.small_embedding import SmallEmbedding
from megalm.parallel.tensor.cross_entropy import VocabParallelHead
from megalm.parallel.tensor.dropout import Dropout
from megalm.parallel.tensor.embedding import VocabParallelEmbedding
from megalm.parallel.tensor.region import Region


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
        self.relative_attention_bias: RelativeBias | None = None
        self.embed_positions: SmallEmbedding | None = None
        if shape.relative is not None:
            self.relative_attention_bias = RelativeBias(shape.relative, stack.attention.num_heads, axis, causal=decodes)
        else:
            region = Region(axis, sequence_parallel)
            self.embed_positions = SmallEmbedding(shape.position_rows, shape.hidden_size, shape.table_std, region)
        self.embed_dropout = Dropout(shape.dropout, axis, sequence_parallel=sequence_parallel)
        self.layers = nn.ModuleList(
            layer(shape, axis, self.relative_attention_bias, sequence_parallel) for _ in range(stack.num_layers)
        )
        self.norm = norm_of(shape, axis, sequence_parallel)
        self.dropout = Dropout(0.0 if shape.post_norm else shape.dropout, axis, sequence_parallel=sequence_parallel)


class Embedding(nn.Module):
    """Tokens to the rows that a stack begins with."""

    def __init__(self, shape: EncoderDecoderShape, shared: VocabParallelEmbedding, stack: Stack) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.shared, self.embed_positions, self.dropout = shared, stack.embed_positions, stack.embed_dropout
        self.norm = stack.norm if shape.post_norm else None
        self.scale, self.first_position = shape.embedding_scale, shape.first_position

    def forward(self, tokens: MicroBatch | Source) -> Tensor:
        """Return the rows [n, hidden]."""
        x: Tensor = self.shared(tokens.tokens_bs.flatten()) * self.scale
        if self.embed_positions is not None:
            x = x + self.embed_positions(tokens.positions_bs + self.first_position)
        if self.norm is not None:
            x = self.norm(x)
        dropped: Tensor = self.dropout(x, tokens.rows_bs.flatten())
        return dropped


class End(nn.Module):
    """What closes a stack: the norm that stands behind its last sum, where none did before."""

    def __init__(self, shape: EncoderDecoderShape, stack: Stack) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.norm, self.dropout = None if shape.post_norm else stack.norm, stack.dropout

    def forward(self, x: Tensor, tokens: MicroBatch | Source) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden]."""
        normed = x if self.norm is None else self.norm(x)
        dropped: Tensor = self.dropout(normed, tokens.rows_bs.flatten())
        return dropped


class EncoderEmbedding(nn.Module):
    """The first block: tokens of the source to rows."""

    def __init__(self, embedding: Embedding) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.embedding = embedding

    def forward(self, _: None, batch: MicroBatch) -> Rows:
        """Return the rows [n, hidden] of the source."""
        assert batch.source is not None, "an encoder-decoder needs micro-batches with a source: objective.name=seq2seq"
        if not batch.reads_source:
            return {}
        return {ENCODER: self.embedding(batch.source)}


class DecoderEmbedding(nn.Module):
    """The block between the stacks: the end of the encoder, and tokens of the target to rows."""

    def __init__(self, encoder_end: End, embedding: Embedding) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.encoder_end, self.embedding = encoder_end, embedding

    def forward(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Return the rows [n, hidden] of the source, as all layers of the decoder see them, and those of the target."""
        if not batch.reads_source:
            return {DECODER: self.embedding(batch)}
        return {ENCODER: self.encoder_end(flow[ENCODER], batch.source), DECODER: self.embedding(batch)}


class Head(nn.Module):
    """The last block: the decoder's end, output head and cross entropy."""

    def __init__(self, end: End, scale: float, lm_head: VocabParallelHead) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.end, self.scale, self.lm_head = end, scale, lm_head

    def forward(self, flow: Rows, batch: MicroBatch) -> Tensor:
        """Return the micro-batch's share of the global batch's loss."""
        loss: Tensor = self.lm_head(self.rows(flow, batch), batch.labels_bs.flatten(), batch.loss_scale)
        return loss

    def rows(self, flow: Rows, batch: MicroBatch) -> Tensor:
        """Return the rows [n, hidden] that the output head reads."""
        rows: Tensor = self.end(flow[DECODER], batch) * self.scale
        return rows

    def logits(self, flow: Rows, batch: MicroBatch) -> Tensor:
        """Return this rank's columns of the logits [places, local vocabulary] of whole rows: where there is a label."""
        return self.lm_head.logits(self.rows(flow, batch)[batch.asked_bs.flatten()])


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
        self.shape = shape = EncoderDecoderShape.of(config)
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
            std=shape.head_std,
            bias=shape.logits_bias,
            sequence_parallel=sequence_parallel,
        )
        if self.lm_head.bias is not None:
            self.lm_head.bias.requires_grad_(False)

    def blocks(self) -> list[nn.Module]:
        """Return what the rows pass through, in order: the spans that a stage may be made of."""
        shape, encoder, decoder = self.shape, self.encoder, self.decoder
        return [
            EncoderEmbedding(Embedding(shape, self.shared, encoder)),
            *encoder.layers,
            DecoderEmbedding(End(shape, encoder), Embedding(shape, self.shared, decoder)),
            *decoder.layers,
            self._head(),
        ]

    def logits(self, batch: MicroBatch) -> Tensor:
        """Return this rank's columns of the logits [whole rows of the target, local vocabulary]."""
        first, *layers, _ = self.blocks()
        flow: Rows = first(None, batch)
        for layer in layers:
            flow = layer(flow, batch)
        return self.lm_head.logits(self._head().rows(flow, batch))

    def _head(self) -> Head:
        return Head(End(self.shape, self.decoder), self.shape.head_scale, self.lm_head)


def build_encoder_decoder(config: ModelConfig, axis: Axis, sequence_parallel: bool) -> nn.Module:
    """Build the model of a ``t5`` or ``bart`` section."""
    with torch.device("meta"):
        return EncoderDecoder(config, axis, sequence_parallel)
