"""What an encoder and a decoder behind it are made of: one description for the builder and the counts. No torch."""

import math
from dataclasses import dataclass

from megalm.models.config import ModelConfig
from megalm.models.layer_shapes import Activation, AttentionShape, MlpShape

ENCODER_DECODERS = frozenset({"t5", "bart"})
"""The families that have this shape."""


@dataclass(frozen=True)
class RelativeShape:
    """A bias of attention for each head by the distance of key and query.

    Args:
        num_buckets: how many distances are told apart.
        max_distance: from which on all are one.
        std: standard deviation of the table.
    """

    num_buckets: int
    max_distance: int
    std: float


@dataclass(frozen=True)
class StackShape:
    """The layers of an encoder or of a decoder.

    Args:
        num_layers: how many.
        attention: of each; also of a decoder's attention to the encoder.
        mlp: of each.
    """

    num_layers: int
    attention: AttentionShape
    mlp: MlpShape


@dataclass(frozen=True)
class EncoderDecoderShape:
    """A family spelled out.

    Args:
        tied: the head shares the table of encoder and decoder.
        table_std: standard deviation of that table.
        head_std: of a head's own, chosen so that logits begin about as wide as those of a shared one.
        eps: of the norms.
        rms_norm: root-mean-square norms without bias; otherwise layer norms.
        gated_mlp: MLPs of three matrices.
        post_norm: a norm behind the embedding and behind each residual sum; otherwise before what is added, and at the
            end of a stack.
        relative: how attention knows positions, one table for all layers of a stack; ``None`` where a table of learned
            positions is added to the embedding of each.
        position_rows: of that table.
        first_position: its row for the first token.
        embedding_scale: what the vectors of tokens are multiplied by.
        head_scale: what the last rows are multiplied by before the head.
        logits_bias: each token has a number that is added to its logit and never learned.
        dropout: of rows: embedded, before each residual sum, and behind a stack's last norm.
    """

    hidden_size: int
    vocab_size: int
    encoder: StackShape
    decoder: StackShape
    tied: bool
    table_std: float
    head_std: float
    eps: float
    rms_norm: bool
    gated_mlp: bool
    post_norm: bool
    relative: RelativeShape | None
    position_rows: int
    first_position: int
    embedding_scale: float
    head_scale: float
    logits_bias: bool
    dropout: float

    @staticmethod
    def of(config: ModelConfig) -> "EncoderDecoderShape":
        """Spell out a resolved model section of one of these families."""
        return _t5(config) if config.family == "t5" else _bart(config)


def _t5(config: ModelConfig) -> EncoderDecoderShape:
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_dim, inner = config.head_dim or hidden // heads, config.intermediate_size or 4 * hidden
    factor, dropout = config.initializer_factor or 0.0, config.dropout_rate or 0.0
    attention = AttentionShape(
        hidden_size=hidden,
        num_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        divisor=1.0,
        dropout=dropout,
        qkv_bias=False,
        out_bias=False,
        query_std=factor / math.sqrt(hidden * head_dim),
        key_value_std=factor / math.sqrt(hidden),
        out_std=factor / math.sqrt(heads * head_dim),
    )
    activations: dict[str | None, Activation] = {"relu": "relu", "gated-gelu": "gelu_new", "gated-silu": "silu"}
    mlp = MlpShape(
        hidden_size=hidden,
        intermediate_size=inner,
        bias=False,
        activation=activations[config.feed_forward_proj],
        std=factor / math.sqrt(hidden),
        out_std=factor / math.sqrt(inner),
        dropout=dropout,
    )
    return EncoderDecoderShape(
        hidden_size=hidden,
        vocab_size=config.vocab_size,
        encoder=StackShape(config.num_hidden_layers, attention, mlp),
        decoder=StackShape(config.num_decoder_layers or config.num_hidden_layers, attention, mlp),
        tied=config.tie_word_embeddings,
        table_std=factor,
        head_std=factor / math.sqrt(hidden),
        eps=config.layer_norm_epsilon or 1e-6,
        rms_norm=True,
        gated_mlp=config.feed_forward_proj != "relu",
        post_norm=False,
        relative=RelativeShape(
            config.relative_attention_num_buckets or 32,
            config.relative_attention_max_distance or 128,
            factor / math.sqrt(hidden),
        ),
        position_rows=0,
        first_position=0,
        embedding_scale=1.0,
        logits_bias=False,
        head_scale=hidden**-0.5 if config.tie_word_embeddings else 1.0,
        dropout=dropout,
    )


BART_FIRST_POSITION = 2
"""Rows of the table of positions before the first token's, which nothing reads."""


def _bart(config: ModelConfig) -> EncoderDecoderShape:
    hidden = config.hidden_size

    def stack(num_layers: int, heads: int, inner: int) -> StackShape:
        std = config.initializer_range
        attention = AttentionShape(
            hidden_size=hidden,
            num_heads=heads,
            num_key_value_heads=heads,
            head_dim=hidden // heads,
            divisor=math.sqrt(hidden // heads),
            dropout=config.attention_dropout or 0.0,
            qkv_bias=True,
            out_bias=True,
            query_std=std,
            key_value_std=std,
            out_std=std,
        )
        mlp = MlpShape(
            hidden_size=hidden,
            intermediate_size=inner,
            bias=True,
            activation=config.activation_function or "gelu",
            std=std,
            out_std=std,
            dropout=config.activation_dropout or 0.0,
        )
        return StackShape(num_layers, attention, mlp)

    layers, heads, inner = config.num_hidden_layers, config.num_attention_heads, config.intermediate_size or 4 * hidden
    return EncoderDecoderShape(
        hidden_size=hidden,
        vocab_size=config.vocab_size,
        encoder=stack(layers, heads, inner),
        decoder=stack(
            config.num_decoder_layers or layers,
            config.decoder_attention_heads or heads,
            config.decoder_ffn_dim or inner,
        ),
        tied=config.tie_word_embeddings,
        table_std=config.initializer_range,
        head_std=config.initializer_range,
        eps=1e-5,
        rms_norm=False,
        gated_mlp=False,
        post_norm=True,
        relative=None,
        position_rows=config.max_position_embeddings + BART_FIRST_POSITION,
        first_position=BART_FIRST_POSITION,
        embedding_scale=math.sqrt(hidden) if config.scale_embedding else 1.0,
        head_scale=1.0,
        logits_bias=True,
        dropout=config.dropout or 0.0,
    )
