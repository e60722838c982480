"""Hugging Face's generator and discriminator of a section, and megalm's tensors as they name them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from megalm.models.config import ModelConfig
from megalm.models.electra_shape import ElectraShape
from megalm.models.encoder_shape import EncoderShape
from tests.models import hugging_face as _offline  # noqa: F401  nothing may reach for the network

EMBEDDINGS: Mapping[str, str] = {
    "embed_tokens": "word_embeddings",
    "embed_positions": "position_embeddings",
    "embed_segments": "token_type_embeddings",
    "norm": "LayerNorm",
}
LAYER: Mapping[str, str] = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.o_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "mlp.up_proj": "intermediate.dense",
    "mlp.down_proj": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
GENERATOR: Mapping[str, str] = {
    "dense": "generator_predictions.dense",
    "norm": "generator_predictions.LayerNorm",
    "decoder": "generator_lm_head",
}


def models_of(config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    """Return transformers' generator and discriminator, drawn anew."""
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    shape = ElectraShape.of(config)
    return (
        ElectraForMaskedLM(_config(config, shape.generator)),
        ElectraForPreTraining(_config(config, shape.discriminator)),
    )


def _config(config: ModelConfig, shape: EncoderShape) -> Any:
    from transformers import ElectraConfig

    return ElectraConfig(
        vocab_size=config.vocab_size,
        embedding_size=config.embedding_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        layer_norm_eps=config.layer_norm_eps,
        hidden_act=config.hidden_act,
        tie_word_embeddings=config.tie_word_embeddings,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
        pad_token_id=None,
    )


def named_by(tensors: Mapping[str, Tensor], tower: str) -> dict[str, Tensor]:
    """Return what one of both models has of megalm's tensors, under its names.

    Args:
        tensors: by megalm's names.
        tower: ``generator`` or ``discriminator``.
    """
    found = {}
    for name, tensor in tensors.items():
        path, _, kind = name.rpartition(".")
        head, _, rest = path.partition(".")
        if head == "embedding":
            found[f"electra.embeddings.{EMBEDDINGS[rest]}.{kind}"] = tensor
        elif head == tower and rest == "embeddings_project":
            found[f"electra.embeddings_project.{kind}"] = tensor
        elif head == tower:
            _, number, part = rest.split(".", 2)
            found[f"electra.encoder.layer.{number}.{LAYER[part]}.{kind}"] = tensor
        elif head == tower == "generator":
            raise AssertionError(name)
        elif path.startswith("generator_head.lm_head.") and tower == "generator":
            found[f"{GENERATOR[path.removeprefix('generator_head.lm_head.')]}.{kind}"] = tensor
        elif head == "discriminator_head" and tower == "discriminator":
            found[f"discriminator_predictions.{rest}.{kind}"] = tensor
    return found
