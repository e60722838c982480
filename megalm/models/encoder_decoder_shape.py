"""What an encoder and a decoder behind it are made of: one description for the builder and the counts. No torch."""

import math
from dataclasses import dataclass

from megalm.models.config import ModelConfig
from megalm.models.layer_shapes import Activation, AttentionShape, MlpShape

ENCODER_DECODERS = frozenset({"t5"})
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
        table_std: standard deviation of that table, and of the head's own.
        eps: of the norms.
        rms_norm: root-mean-square norms without bias; otherwise layer norms.
        gated_mlp: MLPs of three matrices.
        relative: how attention knows positions, one table for all layers of a stack.
        head_scale: what the last rows are multiplied by before the head.
        dropout: of rows: embedded, before each residual sum, and behind a stack's last norm.
    """

    hidden_size: int
    vocab_size: int
    encoder: StackShape
    decoder: StackShape
    tied: bool
    table_std: float
    eps: float
    rms_norm: bool
    gated_mlp: bool
    relative: RelativeShape
    head_scale: float
    dropout: float

    @staticmethod
    def of(config: ModelConfig) -> "EncoderDecoderShape":
        """Spell out a resolved model section of one of these families."""
        return _t5(config)


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
        eps=config.layer_norm_epsilon or 1e-6,
        rms_norm=True,
        gated_mlp=config.feed_forward_proj != "relu",
        relative=RelativeShape(
            config.relative_attention_num_buckets or 32,
            config.relative_attention_max_distance or 128,
            factor / math.sqrt(hidden),
        ),
        head_scale=hidden**-0.5 if config.tie_word_embeddings else 1.0,
        dropout=dropout,
    )
