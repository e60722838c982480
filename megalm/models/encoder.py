"""One encoder for the shapes of BERT and RoBERTa."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from megalm.batch import IGNORED, MicroBatch
from megalm.mesh import Axis
from megalm.models.class_head import ClassHead, TaskHeads
from megalm.models.config import ModelConfig
from megalm.models.encoder_shape import EncoderShape
from megalm.models.mlp import activation
from megalm.models.post_norm_layer import PostNormLayer
from megalm.models.small_embedding import SmallEmbedding
from megalm.parallel.tensor.cross_entropy import VocabParallelHead
from megalm.parallel.tensor.dropout import Dropout
from megalm.parallel.tensor.embedding import VocabParallelEmbedding
from megalm.parallel.tensor.linear import ReplicatedLinear
from megalm.parallel.tensor.norm import LayerNorm
from megalm.parallel.tensor.region import Region, pick_rows


class EncoderEmbedding(nn.Module):
    """The first block: the vectors of tokens, positions and segments, summed and normed."""

    def __init__(self, shape: EncoderShape, axis: Axis, sequence_parallel: bool) -> None:
        """Build the tables and the norm."""
        super().__init__()
        region = Region(axis, sequence_parallel)
        hidden, std = shape.hidden_size, shape.std
        self.embed_tokens = VocabParallelEmbedding(
            shape.vocab_size, hidden, axis, std=std, sequence_parallel=sequence_parallel
        )
        self.embed_positions = SmallEmbedding(shape.max_positions, hidden, std, region)
        self.embed_segments = SmallEmbedding(shape.num_segments, hidden, std, region)
        self.norm = LayerNorm(hidden, axis, eps=shape.eps, sequence_parallel=sequence_parallel)
        self.dropout = Dropout(shape.hidden_dropout, axis, sequence_parallel=sequence_parallel)
        self.first_position = shape.first_position

    def forward(self, _: Tensor | None, batch: MicroBatch) -> Tensor:
        """Return the rows [n, hidden]; without segments all tokens are of the first."""
        segments_bs = torch.zeros_like(batch.tokens_bs) if batch.segments_bs is None else batch.segments_bs
        x = self.embed_tokens(batch.tokens_bs.flatten()) + self.embed_segments(segments_bs)
        x = x + self.embed_positions(batch.positions_bs + self.first_position)
        dropped: Tensor = self.dropout(self.norm(x), batch.rows_bs.flatten())
        return dropped


class MaskedHead(nn.Module):
    """What the tokens at some places are: a product, a norm, and the output head, of the rows that are asked alone.

    Every rank of the tensor axis has these rows whole, a sixth or so of all; the vocabulary is cut.

    Args:
        shape: the encoder's shape.
        axis: the tensor axis.
        weight: the embedding's table when the head is tied to it.
        region: how the rows between blocks are cut.
        embedding_size: features of an embedded token.
    """

    def __init__(
        self, shape: EncoderShape, axis: Axis, weight: nn.Parameter | None, region: Region, embedding_size: int
    ) -> None:
        """See the class."""
        super().__init__()
        self.region = region
        self.dense = ReplicatedLinear(shape.hidden_size, embedding_size, std=shape.std)
        self.norm = LayerNorm(embedding_size, axis, eps=shape.eps)
        self.decoder = VocabParallelHead(
            shape.vocab_size, embedding_size, axis, weight=weight, std=shape.std, bias=True
        )
        self.activation = activation(shape.head_activation)

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Return the tokens' share of the global batch's loss."""
        labels = batch.labels_bs.flatten()
        asked = (labels != IGNORED).nonzero().squeeze(1)
        loss: Tensor = self.decoder(self.normed(pick_rows(x, asked, self.region)), labels[asked], batch.loss_scale)
        return loss

    def logits(self, x: Tensor) -> Tensor:
        """Return this rank's columns of the logits [whole rows, local vocabulary] of all rows."""
        return self.decoder.logits(self.normed(self.region.whole_rows(x)))

    def normed(self, rows: Tensor) -> Tensor:
        """Return for rows [n, hidden] those that the output product reads, [n, features of an embedded token]."""
        normed: Tensor = self.norm(self.activation(self.dense(rows)))
        return normed


class EncoderHead(nn.Module):
    """The last block: what is said of tokens, and of whole samples where they are asked; or the head of a task."""

    def __init__(self, lm_head: MaskedHead, pair_head: ClassHead | None, task_heads: TaskHeads) -> None:
        """Take the heads from the model."""
        super().__init__()
        self.lm_head, self.pair_head, self.task_heads = lm_head, pair_head, task_heads

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Return the micro-batch's share of the global batch's loss."""
        head = self.task_heads.of(batch)
        if head is not None:
            return head(x, batch)  # type: ignore[no-any-return]
        loss: Tensor = self.lm_head(x, batch)
        if self.pair_head is None or batch.classes_b is None:
            return loss
        return loss + self.pair_head(x, batch)  # type: ignore[no-any-return]


def encoder_layers(shape: EncoderShape, axis: Axis, sequence_parallel: bool) -> nn.ModuleList:
    """Build the layers of an encoder."""
    return nn.ModuleList(
        PostNormLayer(
            shape.attention(layer),
            shape.mlp,
            axis,
            eps=shape.eps,
            dropout=shape.hidden_dropout,
            sequence_parallel=sequence_parallel,
        )
        for layer in range(shape.num_layers)
    )


class Backbone(nn.Module):
    """Everything below the heads."""

    def __init__(self, shape: EncoderShape, axis: Axis, sequence_parallel: bool) -> None:
        """Build the embedding and the layers."""
        super().__init__()
        self.embedding = EncoderEmbedding(shape, axis, sequence_parallel)
        self.layers = encoder_layers(shape, axis, sequence_parallel)


class Encoder(nn.Module):
    """Embedding, layers and heads.

    Args:
        config: a resolved model section of one of the encoder families.
        axis: the tensor axis.
        sequence_parallel: whether the rows between blocks are cut over the axis.
        num_labels: classes of the heads that tasks have beside the heads above, by task.
    """

    def __init__(
        self,
        config: ModelConfig,
        axis: Axis,
        sequence_parallel: bool = False,
        num_labels: Mapping[str, int] | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        shape = EncoderShape.of(config)
        region = Region(axis, sequence_parallel)
        self.model = Backbone(shape, axis, sequence_parallel)
        self.score: ClassHead | None = None
        self.task_heads = TaskHeads(num_labels or {}, shape.hidden_size, shape.std, region, pooled=True)
        if shape.num_labels is not None:
            self.score = ClassHead(shape.hidden_size, shape.num_labels, shape.std, region, pooled=True)
            return
        table = self.model.embedding.embed_tokens.weight if shape.tied else None
        self.lm_head = MaskedHead(shape, axis, table, region, shape.hidden_size)
        self.pair_head = ClassHead(shape.hidden_size, 2, shape.std, region, pooled=True) if shape.pools else None

    def blocks(self) -> list[nn.Module]:
        """Return what the rows pass through, in order: the spans that a stage may be made of."""
        layers = [self.model.embedding, *self.model.layers]
        if self.score is not None:
            return [*layers, self.score]
        return [*layers, EncoderHead(self.lm_head, self.pair_head, self.task_heads)]

    def rows(self, batch: MicroBatch) -> Tensor:
        """Return the last layer's rows [n, hidden]."""
        x: Tensor = self.model.embedding(None, batch)
        for layer in self.model.layers:
            x = layer(x, batch)
        return x

    def logits(self, batch: MicroBatch) -> Tensor:
        """Return this rank's columns of the logits [whole rows, local vocabulary]."""
        return self.lm_head.logits(self.rows(batch))


def build_encoder(
    config: ModelConfig, axis: Axis, sequence_parallel: bool, num_labels: Mapping[str, int] | None = None
) -> nn.Module:
    """Build the encoder of a ``bert`` or ``roberta`` section, and heads of tasks."""
    with torch.device("meta"):
        return Encoder(config, axis, sequence_parallel, num_labels)
