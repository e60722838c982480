"""What a decoder block is made of: one description that the builder, the counts and the planner read. No torch."""

import math
from dataclasses import dataclass

from megalm.models.attention_pattern import AttentionConfig, hiding
from megalm.models.config import ModelConfig
from megalm.models.layer_shapes import AttentionShape, MlpShape
from megalm.models.rope_scaling import RopeScaling

LLAMAS = frozenset({"llama", "mistral", "qwen2"})
"""Shapes of Llama that differ in biases and in how far a token sees."""
DECODERS = frozenset({"gpt2", "gpt_neox"}) | LLAMAS
"""The families that have this shape."""


def has_closed_forms(config: ModelConfig) -> bool:
    """Tell whether parameters, FLOPs and memory of a model follow from its shape: a decoder with a head for tokens."""
    return config.family in DECODERS and config.num_labels is None


@dataclass(frozen=True)
class DecoderShape:
    """A family spelled out.

    Args:
        num_labels: of a head for whole samples, which is then the only one.
        learned_positions: a table of positions is added to the embedding; otherwise heads rotate.
        rotary_dim: features of a head that rotate.
        rotary_base: base of the wavelengths.
        rope_scaling: how its frequencies are changed, if they are.
        rms_norm: root-mean-square norms without bias; otherwise layer norms.
        eps: of the norms.
        gated_mlp: SiLU-gated MLP of three matrices; otherwise two matrices around a GELU.
        tanh_gelu: the tanh form of GELU; otherwise the exact one.
        attention_bias: of queries, keys and values.
        attention_out_bias: of attention's output product.
        parallel_residual: attention and MLP read the same input.
        scaled_residual_init: output projections are drawn narrower by sqrt(2 x layers).
        sparse: which keys are seen; ``None`` where all are.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    num_labels: int | None
    tied: bool
    std: float
    learned_positions: bool
    rotary_dim: int
    rotary_base: float
    rope_scaling: RopeScaling | None
    rms_norm: bool
    eps: float
    gated_mlp: bool
    tanh_gelu: bool
    parallel_residual: bool
    attention_bias: bool
    attention_out_bias: bool
    mlp_bias: bool
    scaled_residual_init: bool
    embedding_dropout: float
    attention_dropout: float
    hidden_dropout: float
    sparse: AttentionConfig | None = None

    @property
    def residual_std(self) -> float:
        """The standard deviation of the weights whose products are added to the rows."""
        return self.std / math.sqrt(2 * self.num_layers) if self.scaled_residual_init else self.std

    def attention(self, layer: int) -> AttentionShape:
        """Return the sizes of a block's attention."""
        return AttentionShape(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            divisor=math.sqrt(self.head_dim),
            dropout=self.attention_dropout,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_out_bias,
            query_std=self.std,
            key_value_std=self.std,
            out_std=self.residual_std,
            pattern=self.sparse.of_layer(layer) if self.sparse else None,
        )

    def keys_seen(self, layer: int, seq_length: int) -> int:
        """Return how many keys of a sequence a query of one layer sees, without regard to their order."""
        pattern = hiding(self.sparse, layer, seq_length, causal=True)
        return pattern.keys_seen(seq_length, causal=True) if pattern else seq_length

    def is_sparse(self, layer: int, seq_length: int) -> bool:
        """Tell whether a layer's pattern hides any keys of sequences of this length."""
        return hiding(self.sparse, layer, seq_length, causal=True) is not None

    @property
    def mlp(self) -> MlpShape:
        """The sizes of a block's MLP."""
        return MlpShape(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            bias=self.mlp_bias,
            activation="silu" if self.gated_mlp else "gelu_new" if self.tanh_gelu else "gelu",
            std=self.std,
            out_std=self.residual_std,
        )

    @staticmethod
    def of(config: ModelConfig) -> "DecoderShape":
        """Spell out a resolved model section of one of the decoder families."""
        head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        gpt2, neox, qwen2 = (config.family == family for family in ("gpt2", "gpt_neox", "qwen2"))
        llama = config.family in LLAMAS
        rotary_dim = 0 if gpt2 else head_dim if llama else int(head_dim * (config.rotary_pct or 0.0)) // 2 * 2
        return DecoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads or config.num_attention_heads,
            head_dim=head_dim,
            intermediate_size=config.intermediate_size or 4 * config.hidden_size,
            vocab_size=config.vocab_size,
            max_positions=config.max_position_embeddings,
            num_labels=config.num_labels,
            tied=config.tie_word_embeddings,
            std=config.initializer_range,
            learned_positions=gpt2,
            rotary_dim=rotary_dim,
            rotary_base=config.rope_theta or config.rotary_emb_base or 10000.0,
            rope_scaling=config.rope_scaling,
            rms_norm=llama,
            eps=config.layer_norm_epsilon or config.layer_norm_eps or config.rms_norm_eps or 1e-5,
            gated_mlp=llama,
            tanh_gelu=gpt2 or config.hidden_act == "gelu_new",
            parallel_residual=neox and bool(config.use_parallel_residual),
            attention_bias=gpt2 or qwen2 or bool(config.attention_bias),
            attention_out_bias=gpt2 or bool(config.attention_bias),
            mlp_bias=not llama or bool(config.mlp_bias),
            scaled_residual_init=gpt2,
            embedding_dropout=config.embd_pdrop or config.hidden_dropout or 0.0,
            attention_dropout=config.attn_pdrop or config.attention_dropout or 0.0,
            hidden_dropout=config.resid_pdrop or config.hidden_dropout or 0.0,
            sparse=config.attention,
        )
