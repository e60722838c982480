"""Hugging Face's BART of a model section, and megalm's tensors as it names them."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from megalm.models.config import ModelConfig

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network, and nothing may reach for it

RENAMES = {
    ".self_attn_residual.norm.": ".self_attn_layer_norm.",
    ".cross_attn_residual.norm.": ".encoder_attn_layer_norm.",
    ".mlp_residual.norm.": ".final_layer_norm.",
    ".cross_attn.": ".encoder_attn.",
    ".o_proj.": ".out_proj.",
    ".mlp.up_proj.": ".fc1.",
    ".mlp.down_proj.": ".fc2.",
    "encoder.norm.": "encoder.layernorm_embedding.",
    "decoder.norm.": "decoder.layernorm_embedding.",
}


def bart(config: ModelConfig, values: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """Return transformers' model with these values; an untied head is given a table of its own."""
    from transformers import BartConfig, BartForConditionalGeneration

    fields = {"vocab_size", "max_position_embeddings", "decoder_attention_heads", "decoder_ffn_dim", "scale_embedding"}
    model: nn.Module = BartForConditionalGeneration(
        BartConfig(
            **config.model_dump(include={*fields, "activation_function"}),
            d_model=config.hidden_size,
            encoder_layers=config.num_hidden_layers,
            decoder_layers=config.num_decoder_layers,
            encoder_attention_heads=config.num_attention_heads,
            encoder_ffn_dim=config.intermediate_size,
            dropout=0.0,
            decoder_start_token_id=0,
            pad_token_id=None,
            attn_implementation="eager",
        )
    )
    if not config.tie_word_embeddings:
        model.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    model = model.to(dtype).train()
    missing, unexpected = model.load_state_dict(renamed(config, values), strict=False)
    assert not unexpected
    ties = {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"}
    assert set(missing) == (ties if config.tie_word_embeddings else ties - {"lm_head.weight"})
    return model


def renamed(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return values or gradients, given under megalm's names, under Hugging Face's."""
    found = {}
    for ours, tensor in tensors.items():
        name = ours if ours.startswith("lm_head") else f"model.{ours}"
        for old, new in RENAMES.items():
            name = name.replace(old, new)
        found[name] = tensor
    if "lm_head.bias" in found:
        found["final_logits_bias"] = found.pop("lm_head.bias").unsqueeze(0)
    return found
