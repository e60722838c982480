"""The model section of the run file. Field names are Hugging Face's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from megalm.errors import UserError, suggestion
from megalm.models.attention_pattern import AttentionConfig
from megalm.models.config_json import CONFIG, FREE, model_fields
from megalm.models.layer_shapes import Activation
from megalm.models.presets import PRESETS
from megalm.models.rope_scaling import RopeScaling
from megalm.section import Section

_SHARED: Mapping[str, Any] = {"initializer_range": 0.02}
_ENCODER: Mapping[str, Any] = {
    "attention": None,
    "tie_word_embeddings": True,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_LLAMA: Mapping[str, Any] = {
    "attention": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_dropout": 0.0,
}
FAMILY_DEFAULTS: Mapping[str, dict[str, Any]] = {
    "gpt2": {
        "attention": None,
        "max_position_embeddings": 1024,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
    },
    "gpt_neox": {
        "attention": None,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "use_parallel_residual": True,
        "hidden_act": "gelu",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000.0,
        "rope_scaling": None,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "llama": {**_LLAMA, "max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
    "mistral": {**_LLAMA, "max_position_embeddings": 131072},
    "qwen2": {**_LLAMA, "max_position_embeddings": 32768},
    "bert": {**_ENCODER, "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "type_vocab_size": 2},
    "roberta": {
        **_ENCODER,
        "max_position_embeddings": 514,
        "layer_norm_eps": 1e-5,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    },
    "electra": {
        **_ENCODER,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "generator_size": 0.25,
    },
    "t5": {
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": True,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "relu",
        "initializer_factor": 1.0,
        "dropout_rate": 0.0,
        "decoder_start_token_id": None,
    },
    "bart": {
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "activation_function": "gelu",
        "scale_embedding": False,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "decoder_start_token_id": None,
    },
}
"""What each family has beside the sizes, and its defaults; a field that is not a family's is refused there."""

_SIZES = frozenset(
    {
        "family",
        "preset",
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "vocab_size",
        "intermediate_size",
        "options",
    }
)
_FAMILY_SIZES: Mapping[str, set[str]] = {
    **{family: {"num_labels"} for family in ("gpt2", "gpt_neox", "bert", "roberta")},
    **{family: {"num_key_value_heads", "head_dim", "num_labels"} for family in ("llama", "mistral", "qwen2")},
    "electra": {"embedding_size"},
    "t5": {"head_dim", "num_decoder_layers"},
    "bart": {"num_decoder_layers", "decoder_attention_heads", "decoder_ffn_dim"},
}
_DECODER_SIZES: Mapping[str, str] = {
    "num_decoder_layers": "num_hidden_layers",
    "decoder_attention_heads": "num_attention_heads",
    "decoder_ffn_dim": "intermediate_size",
}
"""Sizes of a decoder behind an encoder, and those of the encoder that they are by default."""


class ModelConfig(Section):
    """What the model is. Every field is resolved: what the run file leaves out comes from the preset or the family."""

    family: str = Field(
        description="the shape: gpt2 | gpt_neox | llama | mistral | qwen2 | bert | roberta | electra | t5 | bart, or "
        "package.module:name of your own builder"
    )
    from_: str | None = Field(
        None,
        alias="from",
        min_length=1,
        description="Hugging Face's directory: its config.json gives the fields, its safetensors the first weights",
    )
    preset: str | None = Field(None, description="a named size whose fields are the defaults: " + ", ".join(PRESETS))
    num_hidden_layers: int = Field(ge=1, description="number of blocks, of an encoder-decoder the encoder's")
    hidden_size: int = Field(ge=1, description="features of a token between blocks; compute grows with its square")
    num_attention_heads: int = Field(ge=1, description="query heads; tp may be at most this")
    vocab_size: int = Field(ge=1, description="tokens the model knows; at least the tokenizer's; need not divide by tp")
    num_labels: int | None = Field(
        None,
        ge=2,
        description="classes that a head for whole samples tells apart, in place of the head for tokens: what "
        "objective.name=classify learns; a directory of labelled data names them in its meta.json",
    )
    num_key_value_heads: int | None = Field(None, ge=1, description="key heads, a divisor of the query heads (llama)")
    head_dim: int | None = Field(
        None, ge=1, description="features of a head; hidden_size / heads by default (llama, t5)"
    )
    intermediate_size: int | None = Field(
        None, ge=1, description="features inside the MLP: 4 x hidden, for llama two thirds of that rounded up to 64"
    )
    max_position_embeddings: int = Field(1024, ge=1, description="longest sequence; learned positions have this many")
    initializer_range: float = Field(0.02, ge=0, description="standard deviation of the drawn weights")
    tie_word_embeddings: bool = Field(False, description="whether the head shares the embedding's table")
    layer_norm_epsilon: float | None = Field(None, gt=0, description="added to the variance in norms (gpt2, t5)")
    layer_norm_eps: float | None = Field(
        None, gt=0, description="added to the variance in norms (gpt_neox, bert, roberta, electra)"
    )
    rms_norm_eps: float | None = Field(None, gt=0, description="added to the mean square in norms (llama)")
    attention_bias: bool | None = Field(None, description="whether attention's linears have biases (gpt_neox, llama)")
    mlp_bias: bool | None = Field(None, description="whether the MLP's linears have biases (llama)")
    use_parallel_residual: bool | None = Field(None, description="attention and MLP read the same input (gpt_neox)")
    rotary_pct: float | None = Field(None, ge=0, le=1, description="share of a head's features that rotate (gpt_neox)")
    rotary_emb_base: float | None = Field(None, gt=0, description="base of the rotation's wavelengths (gpt_neox)")
    rope_theta: float | None = Field(None, gt=0, description="base of the rotation's wavelengths (llama)")
    rope_scaling: RopeScaling | None = Field(
        None, description="how the rotation's frequencies are changed (gpt_neox, llama, mistral, qwen2)"
    )
    attention: AttentionConfig | None = Field(
        None, description="which keys a query sees, of those that its order leaves it (decoders and encoders)"
    )
    embd_pdrop: float | None = Field(None, ge=0, lt=1, description="dropout after the embedding (gpt2)")
    attn_pdrop: float | None = Field(
        None, ge=0, lt=1, description="dropout of attention probabilities; takes the slower math path (gpt2)"
    )
    resid_pdrop: float | None = Field(None, ge=0, lt=1, description="dropout before each residual sum (gpt2)")
    hidden_dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout after the embedding and before each residual sum (gpt_neox)"
    )
    attention_dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout of attention probabilities; takes the slower math path"
    )
    hidden_act: Activation | None = Field(
        None, description="the MLP's non-linearity (gpt_neox, bert, roberta, electra)"
    )
    hidden_dropout_prob: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="dropout after the embedding and before each residual sum (bert, roberta, electra)",
    )
    attention_probs_dropout_prob: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="dropout of attention probabilities; takes the slower math path (bert, roberta, electra)",
    )
    type_vocab_size: int | None = Field(
        None, ge=1, description="segments that tokens may be told to belong to; pairs need two (bert, roberta, electra)"
    )
    pad_token_id: int | None = Field(
        None, ge=0, description="positions begin after this row of their table, which padding has (roberta)"
    )
    embedding_size: int | None = Field(
        None,
        ge=1,
        description="features of an embedded token, projected to hidden_size where that is another; hidden_size by "
        "default (electra)",
    )
    generator_size: float | None = Field(
        None,
        gt=0,
        le=1,
        description="the generator's hidden size, heads and MLP as a share of the discriminator's, 0.25 by default; "
        "both have num_hidden_layers (electra)",
    )
    num_decoder_layers: int | None = Field(
        None, ge=1, description="blocks of the decoder; as many as the encoder's by default (t5, bart)"
    )
    relative_attention_num_buckets: int | None = Field(
        None, ge=4, description="distances that the bias of attention tells apart, some of them in groups (t5)"
    )
    relative_attention_max_distance: int | None = Field(
        None, ge=2, description="distance from which on all are one group, more than half of the buckets (t5)"
    )
    feed_forward_proj: Literal["relu", "gated-gelu", "gated-silu"] | None = Field(
        None, description="the MLP: relu between two matrices, or a gate of a third one (t5)"
    )
    initializer_factor: float | None = Field(
        None, ge=0, description="multiplies the standard deviations of drawn weights, which follow from sizes (t5)"
    )
    dropout_rate: float | None = Field(
        None, ge=0, lt=1, description="dropout everywhere; takes the slower math path of attention (t5)"
    )
    decoder_start_token_id: int | None = Field(
        None, ge=0, description="what a decoder is told first; padding by default (t5), or the end token (bart)"
    )
    decoder_attention_heads: int | None = Field(
        None, ge=1, description="heads of the decoder; the encoder's by default (bart)"
    )
    decoder_ffn_dim: int | None = Field(
        None, ge=1, description="features inside the decoder's MLP; the encoder's by default (bart)"
    )
    activation_function: Activation | None = Field(None, description="the MLP's non-linearity (bart)")
    scale_embedding: bool | None = Field(
        None, description="whether vectors of tokens are multiplied by the root of hidden_size (bart)"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout after the embedding and before each residual sum (bart)"
    )
    activation_dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout behind the MLP's non-linearity (bart)"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="free keys for your own family's builder")

    @property
    def first_position(self) -> int:
        """The row of the table of positions that the first token of a sequence has."""
        return 0 if self.pad_token_id is None else self.pad_token_id + 1

    @property
    def longest_sequence(self) -> int | None:
        """Tokens of the longest sequence that the model has positions for.

        ``None`` where positions have no table, or only a user's own builder knows it.
        """
        if "max_position_embeddings" not in FAMILY_DEFAULTS.get(self.family, {}):
            return None
        return self.max_position_embeddings - self.first_position

    @property
    def num_blocks(self) -> int:
        """What a pipeline's stages are made of: embedding, layers and head; a decoder behind an encoder embeds too.

        A generator and the discriminator behind it have all three each.
        """
        if self.generator_size is not None:
            return 2 * (self.num_hidden_layers + 2)
        decoder = 0 if self.num_decoder_layers is None else self.num_decoder_layers + 1
        return self.num_hidden_layers + decoder + 2

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        """Fill what was left out from the preset, then from the family."""
        if not isinstance(given, dict):
            return given
        if isinstance(given.get("from"), str):
            given = _filled_from(given["from"], given)
        preset = given.get("preset")
        if isinstance(preset, str):
            if preset not in PRESETS:
                raise UserError(
                    f"model.preset: {preset!r} is not known{suggestion(preset, PRESETS) or '.'} Choose one of "
                    f"{', '.join(PRESETS)}."
                )
            given = {**PRESETS[preset], **given}
        family = given.get("family")
        if not isinstance(family, str) or family not in FAMILY_DEFAULTS:
            if isinstance(family, str) and ":" not in family:
                raise UserError(
                    f"model.family: {family!r} is not known{suggestion(family, FAMILY_DEFAULTS) or '.'} Choose one of "
                    f"{', '.join(FAMILY_DEFAULTS)}, or give package.module:name."
                )
            return given
        defaults = {**_SHARED, **FAMILY_DEFAULTS[family]}
        if "initializer_factor" in defaults:
            del defaults["initializer_range"]
        foreign = [
            name
            for name in given
            if name in cls.model_fields
            and given[name] not in (None, cls.model_fields[name].default)
            and name not in defaults.keys() | _SIZES | _FAMILY_SIZES.get(family, set())
        ]
        if foreign:
            raise UserError(f"model.{foreign[0]} has no effect in the family {family}; remove it.")
        resolved = {**defaults, **{name: value for name, value in given.items() if value is not None}}
        hidden = resolved.get("hidden_size")
        if isinstance(hidden, int) and "intermediate_size" not in resolved:
            resolved["intermediate_size"] = (
                -(-8 * hidden // (3 * 64)) * 64 if "rms_norm_eps" in defaults else 4 * hidden
            )
        sizes = _FAMILY_SIZES.get(family, set())
        heads = resolved.get("num_attention_heads")
        if "num_key_value_heads" in sizes:
            resolved.setdefault("num_key_value_heads", heads)
        if "head_dim" in sizes and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
            resolved.setdefault("head_dim", hidden // heads)
        if "embedding_size" in sizes:
            resolved.setdefault("embedding_size", hidden)
        for decoder, encoder in _DECODER_SIZES.items():
            if decoder in sizes:
                resolved.setdefault(decoder, resolved.get(encoder))
        return resolved

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse sizes that do not fit one another."""
        if self.family not in FAMILY_DEFAULTS:
            return self
        heads = self.num_attention_heads
        if self.hidden_size % heads and self.head_dim in (None, self.hidden_size // heads):
            raise UserError(
                f"model.num_attention_heads={heads} does not divide model.hidden_size={self.hidden_size}; choose a "
                "divisor."
            )
        if self.decoder_attention_heads is not None and self.hidden_size % self.decoder_attention_heads:
            raise UserError(
                f"model.decoder_attention_heads={self.decoder_attention_heads} does not divide model.hidden_size="
                f"{self.hidden_size}; choose a divisor."
            )
        if self.num_key_value_heads is not None and heads % self.num_key_value_heads:
            raise UserError(
                f"model.num_key_value_heads={self.num_key_value_heads} does not divide "
                f"model.num_attention_heads={heads}; choose a divisor."
            )
        if self.rope_theta is not None and self.head_dim is not None and self.head_dim % 2:
            raise UserError(f"model.head_dim={self.head_dim} is odd, but rotation takes pairs; choose an even one.")
        dense = (self.attention and self.attention.num_dense_layers) or 0
        if dense >= self.num_hidden_layers:
            raise UserError(
                f"model.attention.num_dense_layers={dense} leaves none of the model.num_hidden_layers="
                f"{self.num_hidden_layers} to the pattern; choose fewer, or pattern=dense."
            )
        distance, buckets = self.relative_attention_max_distance, self.relative_attention_num_buckets
        if distance is not None and buckets is not None and distance <= buckets // 2:
            raise UserError(
                f"model.relative_attention_max_distance={distance} is not more than half of the "
                f"model.relative_attention_num_buckets={buckets}; choose a longer distance or fewer buckets."
            )
        return self


def _filled_from(directory: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given and all that a directory's ``config.json`` says.

    Raises:
        UserError: the two contradict one another, or the file cannot be read.
    """
    fields = model_fields(Path(directory))
    if given.get("preset") is not None:
        raise UserError("model.preset and model.from both say what the model is; leave one of them out.")
    for name, value in fields.items():
        mine = given.get(name)
        if mine is not None and _said(mine) != _said(value) and name not in FREE:
            raise UserError(
                f"model.{name}={mine} contradicts {directory}/{CONFIG}, which says {value}; leave it out, or give "
                "another model.from."
            )
    return {**fields, **{name: value for name, value in given.items() if value is not None}}


def _said(value: Any) -> Any:
    """Return a value without the keys below it that say nothing."""
    return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value
