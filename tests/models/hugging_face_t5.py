"""Hugging Face's T5 of a model section, and megalm's tensors as it names them."""

import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from megalm.models.config import ModelConfig

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network, and nothing may reach for it

LAYER = {
    "self_attn": "layer.0.SelfAttention",
    "self_attn_residual.norm": "layer.0.layer_norm",
    "cross_attn": "layer.1.EncDecAttention",
    "cross_attn_residual.norm": "layer.1.layer_norm",
}
NUMBER = {"encoder": 1, "decoder": 2}
"""The place of the MLP in a block."""


class WideNorm(nn.Module):
    """T5's norm in the dtype of the rows."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def t5(config: ModelConfig, values: Mapping[str, Tensor], dtype: torch.dtype, *, wide_norms: bool = False) -> nn.Module:
    """Return transformers' model with these values; an untied head is given a table of its own."""
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    fields = {"vocab_size", "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon"}
    model: nn.Module = T5ForConditionalGeneration(
        T5Config(
            **config.model_dump(include={*fields, "feed_forward_proj", "num_decoder_layers", "tie_word_embeddings"}),
            d_model=config.hidden_size,
            d_kv=config.head_dim,
            d_ff=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            attn_implementation="eager",
        )
    )
    if not config.tie_word_embeddings:
        model.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    for name, module in list(model.named_modules()):
        if wide_norms and isinstance(module, T5LayerNorm):
            home, _, last = name.rpartition(".")
            setattr(model.get_submodule(home), last, WideNorm(module.weight, module.variance_epsilon))
    model = model.to(dtype).train()
    missing, unexpected = model.load_state_dict(renamed(config, values), strict=False)
    assert not unexpected
    ties = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
    assert set(missing) == (ties if config.tie_word_embeddings else ties - {"lm_head.weight"})
    return model


def renamed(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return values or gradients, given under megalm's names, under Hugging Face's."""
    return {_name(config, name): tensor for name, tensor in tensors.items()}


def _name(config: ModelConfig, name: str) -> str:
    stack, _, rest = name.partition(".")
    if stack not in NUMBER:
        return name
    if rest == "relative_attention_bias.weight":
        return f"{stack}.block.0.layer.0.SelfAttention.{rest}"
    if rest == "norm.weight":
        return f"{stack}.final_layer_norm.weight"
    found = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", rest)
    assert found is not None, name
    number, part = found.groups()
    mlp = f"layer.{NUMBER[stack]}"
    inner = {"gate_proj": "wi_0", "up_proj": "wi" if config.feed_forward_proj == "relu" else "wi_1", "down_proj": "wo"}
    if part == "mlp_residual.norm":
        theirs = f"{mlp}.layer_norm"
    elif part.startswith("mlp."):
        theirs = f"{mlp}.DenseReluDense.{inner[part.removeprefix('mlp.')]}"
    elif part in LAYER:
        theirs = LAYER[part]
    else:
        attention, _, projection = part.rpartition(".")
        theirs = f"{LAYER[attention]}.{projection.removesuffix('_proj')}"
    return f"{stack}.block.{number}.{theirs}.weight"
