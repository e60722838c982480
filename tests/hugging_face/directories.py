"""Tiny directories as transformers writes them, randomly initialised; every value moved, so that nothing is 0 or 1."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network, and nothing may reach for it

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 40, "vocab_size": 61}
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40, "vocab_size": 61}),
    "gpt2 untied, vocabulary 1009": (
        "GPT2",
        {
            **{"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40, "vocab_size": 1009},
            **{"n_inner": 37, "tie_word_embeddings": False},
        },
    ),
    "gpt_neox, a quarter rotates, vocabulary 1009": (
        "GPTNeoX",
        {**SIZES, "num_attention_heads": 3, "intermediate_size": 50, "vocab_size": 1009},
    ),
    "gpt_neox tied, no bias, sequential": (
        "GPTNeoX",
        {
            **SIZES,
            **{"num_attention_heads": 3, "intermediate_size": 50, "tie_word_embeddings": True},
            **{"attention_bias": False, "use_parallel_residual": False, "hidden_act": "gelu"},
        },
    ),
    "llama, 3 key heads": (
        "Llama",
        {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 40},
    ),
    "llama tied, biases, its own head size": (
        "Llama",
        {
            **SIZES,
            **{"num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 40, "head_dim": 8},
            **{"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "vocab_size": 1009},
        },
    ),
    "llama, rotation scaled as llama3": (
        "Llama",
        {
            **SIZES,
            **{"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 40},
            "rope_parameters": {
                **{"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0},
                **{"high_freq_factor": 4.0, "original_max_position_embeddings": 20},
            },
        },
    ),
    "gpt_neox, rotation scaled linearly": (
        "GPTNeoX",
        {
            **SIZES,
            **{"num_attention_heads": 3, "intermediate_size": 50},
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 100.0,
                "factor": 3.0,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    "mistral": (
        "Mistral",
        {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 40, "head_dim": 8},
    ),
    "qwen2": (
        "Qwen2",
        {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 40, "vocab_size": 1009},
    ),
    "bert": ("Bert", {**SIZES, "num_attention_heads": 3, "intermediate_size": 50}),
    "roberta": (
        "Roberta",
        {**SIZES, "num_attention_heads": 3, "intermediate_size": 50, "type_vocab_size": 1, "vocab_size": 1009},
    ),
}


def make(name: str, directory: Path, dtype: torch.dtype = torch.float32, shard: str = "1GB") -> nn.Module:
    """Write one of ``MODELS`` into a directory and return it.

    Args:
        name: of the model.
        directory: to make.
        dtype: of the weights.
        shard: the largest file, as ``save_pretrained`` takes it.
    """
    kind, fields = MODELS[name]
    model = built(kind, fields).to(dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(dtype), alpha=0.2)
    model.save_pretrained(directory, max_shard_size=shard)  # type: ignore[operator]
    return model.eval()


HEADS = {"GPT2": "LMHeadModel", "Bert": "ForPreTraining", "Roberta": "ForMaskedLM"}


def built(kind: str, fields: Mapping[str, Any]) -> nn.Module:
    """Build transformers' model with a head, ``Llama`` for example."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    ids = {"bos_token_id": None, "eos_token_id": None}
    config = getattr(transformers, f"{kind}Config")(**{**ids, **fields})
    head = HEADS.get(kind, "ForCausalLM")
    model: nn.Module = getattr(transformers, kind + head)(config)
    return model


def tensors_in(directory: Path) -> dict[str, Tensor]:
    """Return all tensors of a directory's safetensors files."""
    from safetensors.torch import load_file

    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}
