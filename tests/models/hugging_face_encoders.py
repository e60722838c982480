"""Hugging Face's model of an encoder's section, and megalm's tensors as it names them."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from megalm.models.config import ModelConfig

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network, and nothing may reach for it

LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.o_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "mlp.up_proj": "intermediate.dense",
    "mlp.down_proj": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
BERT_HEADS = {
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.norm": "cls.predictions.transform.LayerNorm",
    "pair_head.pooler": "bert.pooler.dense",
    "pair_head.classifier": "cls.seq_relationship",
}
ROBERTA_HEADS = {"lm_head.dense": "lm_head.dense", "lm_head.norm": "lm_head.layer_norm"}


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
    """Return values or gradients, given under megalm's names, under Hugging Face's."""
    base, heads = config.family, ROBERTA_HEADS if config.family == "roberta" else BERT_HEADS
    decoder = "lm_head" if config.family == "roberta" else "cls.predictions"
    names = {
        "model.embedding.embed_tokens": f"{base}.embeddings.word_embeddings",
        "model.embedding.embed_positions": f"{base}.embeddings.position_embeddings",
        "model.embedding.embed_segments": f"{base}.embeddings.token_type_embeddings",
        "model.embedding.norm": f"{base}.embeddings.LayerNorm",
        **heads,
    }
    for layer in range(config.num_hidden_layers):
        names.update(
            {f"model.layers.{layer}.{ours}": f"{base}.encoder.layer.{layer}.{their}" for ours, their in LAYER.items()}
        )
    found = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if module == "lm_head.decoder":
            tied = config.tie_word_embeddings
            found[f"{decoder}.bias" if part == "bias" and tied else f"{decoder}.decoder.{part}"] = tensor
        elif pairs or not module.startswith("pair_head"):
            found[f"{names[module]}.{part}"] = tensor
    return found
