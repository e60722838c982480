"""Hugging Face's model of a model section, and megalm's tensors as it names and lays them out."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from megalm.models.config import ModelConfig
from megalm.models.decoder_shape import DecoderShape

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
    return {"gpt2": _gpt2_names, "gpt_neox": _neox_names, "llama": _llama_names}[config.family](config, tensors)


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

    fields = _fields(config, {"layer_norm_eps", "use_parallel_residual", "attention_bias"})
    rotation = {
        "rope_type": "default",
        "rope_theta": config.rotary_emb_base,
        "partial_rotary_factor": config.rotary_pct,
    }
    return GPTNeoXForCausalLM(GPTNeoXConfig(**fields, rope_parameters=rotation))


def _llama(config: ModelConfig) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = _fields(config, {"num_key_value_heads", "head_dim", "rms_norm_eps", "attention_bias", "mlp_bias"})
    rotation = {"rope_type": "default", "rope_theta": config.rope_theta}
    return LlamaForCausalLM(LlamaConfig(**fields, rope_parameters=rotation))


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


BUILDERS: Mapping[str, Callable[[ModelConfig], nn.Module]] = {"gpt2": _gpt2, "gpt_neox": _neox, "llama": _llama}


def _gpt2_names(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's linears hold [in, out]; queries, keys and values of all heads stand one after the other."""
    found = {
        "transformer.wte.weight": tensors["model.embed_tokens.weight"],
        "transformer.wpe.weight": tensors["model.embed_positions.weight"],
        **_head(tensors),
    }
    for part in ("weight", "bias"):
        found[f"transformer.ln_f.{part}"] = tensors[f"model.norm.{part}"]
        for layer in range(config.num_hidden_layers):
            ours, theirs = f"model.layers.{layer}", f"transformer.h.{layer}"
            qkv = [tensors[f"{ours}.self_attn.{letter}_proj.{part}"] for letter in "qkv"]
            found[f"{theirs}.ln_1.{part}"] = tensors[f"{ours}.input_layernorm.{part}"]
            found[f"{theirs}.ln_2.{part}"] = tensors[f"{ours}.post_attention_layernorm.{part}"]
            found[f"{theirs}.attn.c_attn.{part}"] = torch.cat(qkv).t()
            found[f"{theirs}.attn.c_proj.{part}"] = tensors[f"{ours}.self_attn.o_proj.{part}"].t()
            found[f"{theirs}.mlp.c_fc.{part}"] = tensors[f"{ours}.mlp.up_proj.{part}"].t()
            found[f"{theirs}.mlp.c_proj.{part}"] = tensors[f"{ours}.mlp.down_proj.{part}"].t()
    return found


def _neox_names(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-NeoX stores the query, key and value rows of one head after the other."""
    heads, head_dim = config.num_attention_heads, DecoderShape.of(config).head_dim
    renames = {
        "self_attn.o_proj": "attention.dense",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
        "input_layernorm": "input_layernorm",
        "post_attention_layernorm": "post_attention_layernorm",
    }
    found = {"gpt_neox.embed_in.weight": tensors["model.embed_tokens.weight"], **_head(tensors)}
    for part in ("weight", "bias"):
        found[f"gpt_neox.final_layer_norm.{part}"] = tensors[f"model.norm.{part}"]
        for layer in range(config.num_hidden_layers):
            ours, theirs = f"model.layers.{layer}", f"gpt_neox.layers.{layer}"
            for our_name, their_name in renames.items():
                if f"{ours}.{our_name}.{part}" in tensors:
                    found[f"{theirs}.{their_name}.{part}"] = tensors[f"{ours}.{our_name}.{part}"]
            if part == "weight" or config.attention_bias:
                qkv = [tensors[f"{ours}.self_attn.{letter}_proj.{part}"] for letter in "qkv"]
                by_head = torch.stack([rows.unflatten(0, (heads, head_dim)) for rows in qkv], 1)
                found[f"{theirs}.attention.query_key_value.{part}"] = by_head.flatten(0, 2)
    return found


def _llama_names(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Llama's names are ours."""
    return dict(tensors)


def _head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in ("lm_head.weight",) if name in tensors}
