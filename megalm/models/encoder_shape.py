"""What an encoder is made of: one description that the builder and the counts read. No torch."""

import math
from dataclasses import dataclass

from megalm.models.attention_pattern import AttentionConfig, hiding
from megalm.models.config import ModelConfig
from megalm.models.layer_shapes import Activation, AttentionShape, MlpShape

ENCODERS = frozenset({"bert", "roberta"})
"""The families that have this shape."""


@dataclass(frozen=True)
class EncoderShape:
    """A family spelled out.

    Args:
        first_position: the row of the table of positions that a sequence's first token has.
        num_segments: rows of the table of segments.
        activation: of the layers.
        head_activation: between the head's own product and its norm.
        num_labels: of a head for whole samples, which is then the only one.
        pools: whether a sample's first row says of the whole sample whether its parts belong together.
        sparse: which keys are seen; ``None`` where all are.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    first_position: int
    num_segments: int
    tied: bool
    std: float
    eps: float
    activation: Activation
    head_activation: Activation
    num_labels: int | None
    pools: bool
    attention_dropout: float
    hidden_dropout: float
    sparse: AttentionConfig | None = None

    def attention(self, layer: int) -> AttentionShape:
        """Return the sizes of a layer's attention."""
        head_dim = self.hidden_size // self.num_heads
        return AttentionShape(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            head_dim=head_dim,
            divisor=math.sqrt(head_dim),
            dropout=self.attention_dropout,
            qkv_bias=True,
            out_bias=True,
            query_std=self.std,
            key_value_std=self.std,
            out_std=self.std,
            pattern=self.sparse.of_layer(layer) if self.sparse else None,
        )

    def keys_seen(self, layer: int, seq_length: int) -> int:
        """Return how many keys of a sequence a query of one layer sees."""
        pattern = hiding(self.sparse, layer, seq_length, causal=False)
        return pattern.keys_seen(seq_length, causal=False) if pattern else seq_length

    def is_sparse(self, layer: int, seq_length: int) -> bool:
        """Tell whether a layer's pattern hides any keys of sequences of this length."""
        return hiding(self.sparse, layer, seq_length, causal=False) is not None

    @property
    def mlp(self) -> MlpShape:
        """The sizes of a layer's MLP."""
        return MlpShape(self.hidden_size, self.intermediate_size, True, self.activation, self.std, self.std)

    @staticmethod
    def of(config: ModelConfig) -> "EncoderShape":
        """Spell out a resolved model section of one of the encoder families."""
        assert config.hidden_act is not None
        return EncoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size or 4 * config.hidden_size,
            vocab_size=config.vocab_size,
            max_positions=config.max_position_embeddings,
            first_position=config.first_position,
            num_segments=config.type_vocab_size or 1,
            tied=config.tie_word_embeddings,
            std=config.initializer_range,
            eps=config.layer_norm_eps or 1e-12,
            activation=config.hidden_act,
            head_activation=config.hidden_act if config.family == "bert" else "gelu",
            num_labels=config.num_labels,
            pools=config.family == "bert",
            attention_dropout=config.attention_probs_dropout_prob or 0.0,
            hidden_dropout=config.hidden_dropout_prob or 0.0,
            sparse=config.attention,
        )
