"""One decoder for the shapes of GPT-2, GPT-NeoX and Llama."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.mesh import Axis
from megalm.models.attention import SelfAttention
from megalm.models.class_head import ClassHead, TaskHeads
from megalm.models.config import ModelConfig
from megalm.models.decoder_shape import DecoderShape
from megalm.models.mlp import GatedMlp, Mlp
from megalm.models.rotary import Rotary
from megalm.models.small_embedding import SmallEmbedding
from megalm.parallel.tensor.cross_entropy import VocabParallelHead
from megalm.parallel.tensor.dropout import Dropout
from megalm.parallel.tensor.embedding import VocabParallelEmbedding
from megalm.parallel.tensor.norm import LayerNorm, RMSNorm
from megalm.parallel.tensor.recomputed import through
from megalm.parallel.tensor.region import Region
from megalm.recompute import Operation


class Embedding(nn.Module):
    """The first block: tokens to rows."""

    def __init__(
        self, embed_tokens: VocabParallelEmbedding, embed_positions: SmallEmbedding | None, dropout: Dropout
    ) -> None:
        """Take the tables from the model."""
        super().__init__()
        self.embed_tokens, self.embed_positions, self.dropout = embed_tokens, embed_positions, dropout

    def forward(self, _: Tensor | None, batch: MicroBatch) -> Tensor:
        """Return the rows [n, hidden]."""
        x: Tensor = self.embed_tokens(batch.tokens_bs.flatten())
        if self.embed_positions is not None:
            x = x + self.embed_positions(batch.positions_bs)
        dropped: Tensor = self.dropout(x, batch.rows_bs.flatten())
        return dropped


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to the rows."""

    def __init__(
        self, shape: DecoderShape, layer: int, axis: Axis, rotary: Rotary | None, sequence_parallel: bool
    ) -> None:
        """Build one block, the model's ``layer``-th from 0."""
        super().__init__()
        norm = RMSNorm if shape.rms_norm else LayerNorm
        mlp = GatedMlp if shape.gated_mlp else Mlp
        self.input_layernorm = norm(shape.hidden_size, axis, eps=shape.eps, sequence_parallel=sequence_parallel)
        self.self_attn = SelfAttention(
            shape.attention(layer), axis, rotary, causal=True, sequence_parallel=sequence_parallel
        )
        self.post_attention_layernorm = norm(
            shape.hidden_size, axis, eps=shape.eps, sequence_parallel=sequence_parallel
        )
        self.mlp = mlp(shape.mlp, axis, sequence_parallel=sequence_parallel)
        self.attention_residual = Dropout(shape.hidden_dropout, axis, sequence_parallel=sequence_parallel)
        self.mlp_residual = Dropout(shape.hidden_dropout, axis, sequence_parallel=sequence_parallel)
        self.parallel_residual = shape.parallel_residual
        self.recomputed: frozenset[Operation] = frozenset()

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden]."""
        return self._rows(x, batch, again=False)

    def again(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Build the graph of ``forward`` for a backward: the rows are not read, so their last sums are left out."""
        return self._rows(x, batch, again=True)

    def _rows(self, x: Tensor, batch: MicroBatch, *, again: bool) -> Tensor:
        token_rows = batch.rows_bs.flatten()
        read = not (again and self.parallel_residual)

        def attend(normed: Tensor) -> Tensor:
            return self.self_attn(normed, batch, again=again, read=read)  # type: ignore[no-any-return]

        def think(normed: Tensor) -> Tensor:
            return self.mlp(normed, token_rows, again=again, read=not again)  # type: ignore[no-any-return]

        attended = self.attention_residual(self._behind(self.input_layernorm, x, attend), token_rows)
        x_and_attended = x + attended
        thinks_of = x if self.parallel_residual else x_and_attended
        thought = self.mlp_residual(self._behind(self.post_attention_layernorm, thinks_of, think), token_rows)
        return x_and_attended + thought  # type: ignore[no-any-return]

    def _behind(self, norm: nn.Module, x: Tensor, span: Callable[[Tensor], Tensor]) -> Tensor:
        return through(norm, [x], span, recompute="norm" in self.recomputed)


class Head(nn.Module):
    """The last block: final norm, output head and cross entropy, or the head of the micro-batch's task."""

    def __init__(self, norm: nn.Module, lm_head: VocabParallelHead, task_heads: TaskHeads) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.norm, self.lm_head, self.task_heads = norm, lm_head, task_heads

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Return the micro-batch's share of the global batch's loss."""
        head = self.task_heads.of(batch)
        if head is not None:
            return head(self.norm(x), batch)  # type: ignore[no-any-return]
        loss: Tensor = self.lm_head(self.norm(x), batch.labels_bs.flatten(), batch.loss_scale)
        return loss

    def logits(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Return this rank's columns of the logits [places, local vocabulary] of whole rows: where there is a label."""
        return self.lm_head.logits(self.norm(x[batch.asked_bs.flatten()]))


class SampleHead(nn.Module):
    """The last block of a classifier: final norm and the head for whole samples."""

    def __init__(self, norm: nn.Module, score: ClassHead) -> None:
        """Take the layers from the model."""
        super().__init__()
        self.norm, self.score = norm, score

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Return the micro-batch's share of the global batch's loss."""
        loss: Tensor = self.score(self.norm(x), batch)
        return loss

    def class_logits(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Return the logits [b, classes] of the samples, of rows ``x`` between blocks."""
        return self.score.class_logits(self.norm(x), batch)


class Backbone(nn.Module):
    """Everything below the head."""

    def __init__(self, shape: DecoderShape, axis: Axis, sequence_parallel: bool) -> None:
        """Build the tables, the blocks and the final norm."""
        super().__init__()
        region = Region(axis, sequence_parallel)
        self.embed_tokens = VocabParallelEmbedding(
            shape.vocab_size, shape.hidden_size, axis, std=shape.std, sequence_parallel=sequence_parallel
        )
        self.embed_positions: SmallEmbedding | None = None
        if shape.learned_positions:
            self.embed_positions = SmallEmbedding(shape.max_positions, shape.hidden_size, shape.std, region)
        self.embed_dropout = Dropout(shape.embedding_dropout, axis, sequence_parallel=sequence_parallel)
        rotary = None
        if shape.rotary_dim:
            rotary = Rotary(shape.rotary_dim, shape.max_positions, shape.rotary_base, shape.rope_scaling)
        self.layers = nn.ModuleList(
            DecoderLayer(shape, layer, axis, rotary, sequence_parallel) for layer in range(shape.num_layers)
        )
        norm = RMSNorm if shape.rms_norm else LayerNorm
        self.norm = norm(shape.hidden_size, axis, eps=shape.eps, sequence_parallel=sequence_parallel)


class Decoder(nn.Module):
    """Embedding, blocks and head.

    Args:
        config: a resolved model section of one of the decoder families.
        axis: the tensor axis.
        sequence_parallel: whether the rows between blocks are cut over the axis.
        num_labels: classes of the heads that tasks have beside the head for tokens, by task.
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
        shape, region = DecoderShape.of(config), Region(axis, sequence_parallel)
        self.model = Backbone(shape, axis, sequence_parallel)
        self.score: ClassHead | None = None
        self.task_heads = TaskHeads(num_labels or {}, shape.hidden_size, shape.std, region, pooled=False)
        if shape.num_labels is not None:
            self.score = ClassHead(shape.hidden_size, shape.num_labels, shape.std, region, pooled=False)
            return
        self.lm_head = VocabParallelHead(
            shape.vocab_size,
            shape.hidden_size,
            axis,
            weight=self.model.embed_tokens.weight if shape.tied else None,
            std=shape.std,
            sequence_parallel=sequence_parallel,
        )

    def blocks(self) -> list[nn.Module]:
        """Return what the rows pass through, in order: the spans that a stage may be made of."""
        backbone = self.model
        embedding = Embedding(backbone.embed_tokens, backbone.embed_positions, backbone.embed_dropout)
        if self.score is not None:
            return [embedding, *backbone.layers, SampleHead(backbone.norm, self.score)]
        return [embedding, *backbone.layers, Head(backbone.norm, self.lm_head, self.task_heads)]

    def logits(self, batch: MicroBatch) -> Tensor:
        """Return this rank's columns of the logits [whole rows, local vocabulary]."""
        embedding, *layers, _ = self.blocks()
        x: Tensor = embedding(None, batch)
        for layer in layers:
            x = layer(x, batch)
        return self.lm_head.logits(self.model.norm(x))


def fill_tables(modules: Iterable[nn.Module]) -> None:
    """Compute the tables of modules that were built without storage."""
    for module in modules:
        if isinstance(module, Rotary):
            module.fill()


def build_decoder(
    config: ModelConfig, axis: Axis, sequence_parallel: bool, num_labels: Mapping[str, int] | None = None
) -> nn.Module:
    """Build the decoder of a ``gpt2``, ``gpt_neox`` or ``llama`` section, and heads of tasks."""
    with torch.device("meta"):
        return Decoder(config, axis, sequence_parallel, num_labels)
