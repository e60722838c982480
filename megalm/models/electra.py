"""A small generator that names hidden tokens, and a discriminator that says which of its tokens are not the text's."""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm.batch import IGNORED, MicroBatch
from megalm.mesh import Axis
from megalm.models.class_head import Classifying
from megalm.models.config import ModelConfig
from megalm.models.electra_shape import ElectraShape
from megalm.models.encoder import EncoderEmbedding, MaskedHead, encoder_layers
from megalm.models.encoder_shape import EncoderShape
from megalm.models.mean_loss import MeanLoss
from megalm.models.mlp import activation
from megalm.models.post_norm_layer import PostNormLayer
from megalm.parallel.tensor.drawn import DrawnTokens
from megalm.parallel.tensor.dropout import Dropout
from megalm.parallel.tensor.linear import ReplicatedLinear
from megalm.parallel.tensor.region import Region, pick_rows

Rows = Mapping[str, Tensor]
LOSS, TOKENS, ROWS = "loss", "tokens", "rows"
"""What flows behind the generator: its loss, what the discriminator reads [b, s], and the rows between its layers."""


class Tower(nn.Module):
    """The layers of one of both encoders, and how it reads the embedding that they share.

    Args:
        shape: of the encoder.
        embedding_size: features of an embedded token.
        axis: the tensor axis.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(self, shape: EncoderShape, embedding_size: int, axis: Axis, sequence_parallel: bool) -> None:
        """See the class."""
        super().__init__()
        region = Region(axis, sequence_parallel)
        self.dropout = Dropout(shape.hidden_dropout, axis, sequence_parallel=sequence_parallel)
        self.embeddings_project: ReplicatedLinear | None = None
        if embedding_size != shape.hidden_size:
            self.embeddings_project = ReplicatedLinear(
                embedding_size, shape.hidden_size, std=shape.std, partial_over=region.partial_over
            )
        self.layers = encoder_layers(shape, axis, sequence_parallel)


class ElectraEmbedding(nn.Module):
    """Tokens to the rows that a tower begins with."""

    def __init__(self, shared: EncoderEmbedding, tower: Tower) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.shared, self.dropout, self.embeddings_project = shared, tower.dropout, tower.embeddings_project

    def forward(self, _: None, batch: MicroBatch) -> Tensor:
        """Return the rows [n, hidden] of the micro-batch's tokens."""
        x: Tensor = self.dropout(self.shared(None, batch), batch.rows_bs.flatten())
        return x if self.embeddings_project is None else self.embeddings_project(x)


class GeneratorHead(nn.Module):
    """The block behind the generator's layers: its loss, and its tokens in place of hidden ones.

    No gradient goes through what is drawn.

    Args:
        lm_head: names tokens.
        region: how the rows between blocks are cut.
    """

    def __init__(self, lm_head: MaskedHead, region: Region) -> None:
        """See the class."""
        super().__init__()
        self.lm_head, self.region = lm_head, region
        self.drawn, self.mean_loss = DrawnTokens(), MeanLoss("mlm")

    def forward(self, x: Tensor, batch: MicroBatch) -> Rows:
        """Return the loss, and the tokens [b, s] that the discriminator reads."""
        asked, rows, loss = self._named(x, batch)
        drawn = self.drawn(rows.detach(), batch.rows_bs.flatten()[asked], self.lm_head.decoder)
        tokens = batch.tokens_bs.flatten().index_copy(0, asked, drawn)
        return {LOSS: self.mean_loss(loss, batch.loss_scale, len(asked)), TOKENS: tokens.view_as(batch.tokens_bs)}

    def again(self, x: Tensor, batch: MicroBatch) -> Rows:
        """Build the graph of ``forward`` for a backward: nothing is drawn, since no gradient comes from there."""
        return {LOSS: self._named(x, batch)[2]}

    def _named(self, x: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the places with a label, the rows that the output product reads of them, and the loss."""
        labels = batch.labels_bs.flatten()
        asked = (labels != IGNORED).nonzero().squeeze(1)
        rows = self.lm_head.normed(pick_rows(x, asked, self.region))
        return asked, rows, self.lm_head.decoder(rows, labels[asked], batch.loss_scale)


class DiscriminatorEmbedding(nn.Module):
    """The block before the discriminator's layers: the generator's text to rows."""

    def __init__(self, embedding: ElectraEmbedding) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.embedding = embedding

    def forward(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Return the rows beside what flows in."""
        return {**flow, ROWS: self.embedding(None, replace(batch, tokens_bs=flow[TOKENS]))}


class DiscriminatorLayer(nn.Module):
    """A layer of the discriminator; what else flows, flows on."""

    def __init__(self, layer: PostNormLayer) -> None:
        """Take the layer from the model."""
        super().__init__()
        self.layer = layer

    def forward(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Map the rows [n, hidden]."""
        return {**flow, ROWS: self.layer(flow[ROWS], batch)}

    def again(self, flow: Rows, batch: MicroBatch) -> Rows:
        """Build the graph of ``forward`` for a backward."""
        return {**flow, ROWS: self.layer.again(flow[ROWS], batch)}


class DiscriminatorHead(Classifying):
    """The last block: of each judged token whether it was replaced, and the loss of both encoders.

    A token that the generator has named right was not replaced. Every rank of the tensor axis holds the head whole and
    applies it to the same rows.

    Args:
        shape: of the discriminator.
        region: how the rows between blocks are cut.
    """

    def __init__(self, shape: EncoderShape, region: Region) -> None:
        """See the class."""
        super().__init__(2)
        self.region = region
        self.dense = ReplicatedLinear(shape.hidden_size, shape.hidden_size, std=shape.std)
        self.dense_prediction = ReplicatedLinear(shape.hidden_size, 1, std=shape.std)
        self.activation = activation(shape.activation)
        self.mean_loss = MeanLoss("rtd")

    def forward(self, flow: Rows, batch: MicroBatch) -> Tensor:
        """Return the micro-batch's share of the global batch's loss."""
        assert batch.judged_bs is not None, "a discriminator needs tokens to judge: objective.name=rtd"
        judged = batch.judged_bs.flatten().nonzero().squeeze(1)
        original = torch.where(batch.asked_bs, batch.labels_bs, batch.tokens_bs)
        replaced = (flow[TOKENS] != original).flatten()[judged]
        logits = self.logits(pick_rows(flow[ROWS], judged, self.region))
        self.count(replaced.long(), (logits.detach() > 0).long())
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        sums = F.binary_cross_entropy_with_logits(wide, replaced.to(wide.dtype), reduction="sum")
        loss = self.mean_loss(sums * batch.judged_loss_scale, batch.judged_loss_scale, len(judged))
        return flow[LOSS] + loss  # type: ignore[no-any-return]

    def logits(self, rows: Tensor) -> Tensor:
        """Return for rows [n, hidden] how likely each token was replaced [n], as log odds."""
        logits: Tensor = self.dense_prediction(self.activation(self.dense(rows))).squeeze(-1)
        return logits


class Electra(nn.Module):
    """The embedding of both, the generator and the discriminator.

    Args:
        config: a resolved model section of the family.
        axis: the tensor axis.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(self, config: ModelConfig, axis: Axis, sequence_parallel: bool = False) -> None:
        """See the class."""
        super().__init__()
        shape = ElectraShape.of(config)
        region = Region(axis, sequence_parallel)
        embedding_size = shape.embedding.hidden_size
        self.embedding = EncoderEmbedding(shape.embedding, axis, sequence_parallel)
        self.generator = Tower(shape.generator, embedding_size, axis, sequence_parallel)
        table = self.embedding.embed_tokens.weight if shape.generator.tied else None
        lm_head = MaskedHead(shape.generator, axis, table, region, embedding_size)
        self.generator_head = GeneratorHead(lm_head, region)
        self.discriminator = Tower(shape.discriminator, embedding_size, axis, sequence_parallel)
        self.discriminator_head = DiscriminatorHead(shape.discriminator, region)

    def blocks(self) -> list[nn.Module]:
        """Return what flows pass through, in order: the spans that a stage may be made of."""
        return [
            ElectraEmbedding(self.embedding, self.generator),
            *self.generator.layers,
            self.generator_head,
            DiscriminatorEmbedding(ElectraEmbedding(self.embedding, self.discriminator)),
            *(DiscriminatorLayer(layer) for layer in self.discriminator.layers),  # type: ignore[arg-type]
            self.discriminator_head,
        ]


def build_electra(config: ModelConfig, axis: Axis, sequence_parallel: bool) -> nn.Module:
    """Build both encoders of an ``electra`` section."""
    with torch.device("meta"):
        return Electra(config, axis, sequence_parallel)
