"""Hugging Face's BART of a model section, and megalm's tensors as it names them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from megalm.models.config import ModelConfig
from tests.models import hugging_face


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
    """Return values or gradients, given under megalm's names, under Hugging Face's; an untied head's under its own."""
    own = {name: tensor for name, tensor in tensors.items() if name == "lm_head.weight"}
    tied = config.model_copy(update={"tie_word_embeddings": True})
    return {**hugging_face.renamed(tied, {name: tensors[name] for name in tensors.keys() - own.keys()}), **own}
