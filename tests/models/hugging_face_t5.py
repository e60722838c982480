"""Hugging Face's T5 of a model section, and megalm's tensors as it names them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from megalm.models.config import ModelConfig
from tests.models.hugging_face import renamed


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
