"""Hugging Face's model of a model section, and megalm's tensors as it names and lays them out."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from megalm.boxes import Box
from megalm.hugging_face.counterpart import counterpart
from megalm.hugging_face.views import view_in
from megalm.models.config import ModelConfig
from megalm.models.decoder_shape import LLAMAS
from megalm.models.window_json import window_keys
from megalm.param_spec import ParamSpec

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network, and nothing may reach for it


def hugging_face_model(config: ModelConfig, values: Mapping[str, Tensor]) -> nn.Module:
    """Return transformers' model with these values in float64.

    The attention of GPT-2 is the eager one; the eager ones of the others take their softmax in float32.
    """
    model = BUILDERS[config.family](config).double().train()
    missing, unexpected = model.load_state_dict(renamed(config, values), strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    return model


def renamed(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return values or gradients, given under megalm's names, under Hugging Face's and in its layout."""
    theirs = counterpart(config, {name: ParamSpec(tuple(tensor.shape)) for name, tensor in tensors.items()})
    found: dict[str, Tensor] = {}
    for name, region in theirs.regions.items():
        key = MODULES.get(region.name, region.name)
        whole = found.setdefault(key, torch.zeros(region.shape, dtype=torch.float64))
        for offsets, view in view_in(whole, region, tuple(tensors[name].shape)).parts:
            view.copy_(tensors[name][Box(offsets, tuple(view.shape)).slices()])
    return found


MODULES = {"embed_out.weight": "lm_head.weight"}
"""Names of parameters that files call otherwise: transformers changes them when it loads and saves."""


def activation_called(name: str) -> nn.Module:
    """Return transformers' non-linearity of this name."""
    from transformers.activations import ACT2FN

    found: nn.Module = ACT2FN[name]
    return found


def _gpt2(config: ModelConfig) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    fields: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "n_positions": config.max_position_embeddings,
        "n_embd": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "n_inner": config.intermediate_size,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "eager",
    }
    return GPT2LMHeadModel(GPT2Config(**fields, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def _neox(config: ModelConfig) -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    fields = _fields(config, {"layer_norm_eps", "use_parallel_residual", "attention_bias", "hidden_act"})
    rotation = {**_rotation(config), "rope_theta": config.rotary_emb_base, "partial_rotary_factor": config.rotary_pct}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**fields, rope_parameters=rotation))


def _llama(config: ModelConfig) -> nn.Module:
    import transformers

    own = {"attention_bias", "mlp_bias"} if config.family == "llama" else set()
    fields = _fields(config, {"num_key_value_heads", "head_dim", "rms_norm_eps", *own})
    rotation = {**_rotation(config), "rope_theta": config.rope_theta}
    kind = config.family.capitalize()
    window = window_keys(config.model_dump())
    theirs = getattr(transformers, f"{kind}Config")(**fields, **window, rope_parameters=rotation)
    model: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(theirs)
    return model


def _rotation(config: ModelConfig) -> dict[str, Any]:
    if config.rope_scaling is None:
        return {"rope_type": "default"}
    return config.rope_scaling.model_dump(exclude_none=True)


def _fields(config: ModelConfig, own: set[str]) -> dict[str, Any]:
    """Return the fields that both sides call alike."""
    shared = {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "tie_word_embeddings",
    }
    return {**config.model_dump(include=shared | own), "attn_implementation": "sdpa"}


BUILDERS: Mapping[str, Callable[[ModelConfig], nn.Module]] = {
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    **dict.fromkeys(LLAMAS, _llama),
}
