"""Hugging Face's model of an encoder's section, and megalm's tensors as it names them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from megalm.models.config import ModelConfig
from tests.models import hugging_face


def encoder_of(config: ModelConfig, values: Mapping[str, Tensor], *, pairs: bool) -> nn.Module:
    """Return transformers' model with these values, in their dtype.

    Args:
        config: a section of one of the encoder families.
        values: by megalm's names.
        pairs: whether it asks about pairs; a ``bert`` that does not has no pooler.
    """
    from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, RobertaConfig, RobertaForMaskedLM

    fields = config.model_dump(
        include={
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
            *("max_position_embeddings", "layer_norm_eps", "type_vocab_size", "hidden_act", "tie_word_embeddings"),
        }
    )
    settings: dict[str, Any] = {
        **fields,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "attn_implementation": "eager",
        "pad_token_id": config.pad_token_id or 0,
    }
    if config.family == "roberta":
        model: nn.Module = RobertaForMaskedLM(RobertaConfig(**settings))
    else:
        model = (BertForPreTraining if pairs else BertForMaskedLM)(BertConfig(**settings))
    found = next(iter(values.values()))
    missing, unexpected = model.to(found.dtype).load_state_dict(renamed(config, values, pairs=pairs), strict=False)
    assert not unexpected
    assert all("decoder." in name or name.endswith("predictions.bias") for name in missing), missing
    return model.train()


def renamed(config: ModelConfig, tensors: Mapping[str, Tensor], *, pairs: bool) -> dict[str, Tensor]:
    """Return values or gradients, given under megalm's names, under Hugging Face's; an untied head's under its own."""
    tied = config.model_copy(update={"tie_word_embeddings": True})
    decoder = "lm_head.decoder" if config.family == "roberta" else "cls.predictions.decoder"
    shared, own = {}, {}
    for name, tensor in tensors.items():
        if name.startswith("lm_head.decoder.") and not config.tie_word_embeddings:
            own[name.replace("lm_head.decoder", decoder)] = tensor
        elif pairs or not name.startswith("pair_head"):
            shared[name] = tensor
    return {**hugging_face.renamed(tied, shared), **own}
