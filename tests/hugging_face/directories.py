"""Tiny directories as transformers writes them, randomly initialised; every value moved, so that nothing is 0 or 1."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network, and nothing may reach for it

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 40, "vocab_size": 61}
T5 = {"vocab_size": 1009, "d_model": 24, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 3}
BART = {
    **{"vocab_size": 1009, "d_model": 24, "max_position_embeddings": 40},
    **{f"{stack}_layers": 2 for stack in ("encoder", "decoder")},
    **{f"{stack}_attention_heads": 3 for stack in ("encoder", "decoder")},
    **{f"{stack}_ffn_dim": 50 for stack in ("encoder", "decoder")},
}
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
    "mistral, a window": (
        "Mistral",
        {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 40, "sliding_window": 5},
    ),
    "qwen2, a window in its last layer": (
        "Qwen2",
        {
            **SIZES,
            **{"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 40},
            **{"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        },
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
    "gpt2 for samples": (
        "GPT2ForSequenceClassification",
        {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40, "vocab_size": 61, "num_labels": 5},
    ),
    "gpt_neox for samples": (
        "GPTNeoXForSequenceClassification",
        {**SIZES, "num_attention_heads": 3, "intermediate_size": 50},
    ),
    "llama for samples": (
        "LlamaForSequenceClassification",
        {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 40, "num_labels": 3},
    ),
    "bert for samples": (
        "BertForSequenceClassification",
        {**SIZES, "num_attention_heads": 3, "intermediate_size": 50, "num_labels": 3},
    ),
    "roberta for samples": (
        "RobertaForSequenceClassification",
        {**SIZES, "num_attention_heads": 3, "intermediate_size": 50, "num_labels": 4},
    ),
    "t5": ("T5", T5),
    "t5 untied, gated, its own head size, deeper decoder": (
        "T5",
        {
            **T5,
            **{"d_kv": 5, "num_decoder_layers": 3, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
            **{"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "layer_norm_epsilon": 1e-3},
        },
    ),
    "bart": ("Bart", BART),
    "bart, unlike stacks, scaled": (
        "Bart",
        {
            **BART,
            **{"decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 31, "scale_embedding": True},
            **{"activation_function": "relu", "vocab_size": 61, "init_std": 0.1, "decoder_start_token_id": 5},
        },
    ),
}


def make(
    name: str, directory: Path, dtype: torch.dtype = torch.float32, shard: str = "1GB", head: str | None = None
) -> nn.Module:
    """Write one of ``MODELS`` into a directory and return it.

    Args:
        name: of the model.
        directory: to make.
        dtype: of the weights.
        shard: the largest file, as ``save_pretrained`` takes it.
        head: the end of the name of transformers' class, if not the family's first.
    """
    kind, fields = MODELS[name]
    model = built(kind, fields, head).to(dtype)
    biases = [buffer for name, buffer in model.named_buffers() if name == "final_logits_bias"]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in [*model.parameters(), *biases]:
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(dtype), alpha=0.2)
    model.save_pretrained(directory, max_shard_size=shard)  # type: ignore[operator]
    return model.eval()


HEADS = {
    **{"GPT2": "LMHeadModel", "Bert": "ForPreTraining", "Roberta": "ForMaskedLM"},
    **dict.fromkeys(("T5", "Bart"), "ForConditionalGeneration"),
}


def built(kind: str, fields: Mapping[str, Any], head: str | None = None) -> nn.Module:
    """Build transformers' model, ``Llama`` for example; T5's head it ties until it is given another."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    ids = {"bos_token_id": None, "eos_token_id": None}
    kind, _, of_samples = kind.partition("ForSeq")
    head = f"ForSeq{of_samples}" if of_samples else head or HEADS.get(kind, "ForCausalLM")
    config = getattr(transformers, f"{kind}Config")(**{**ids, **fields})
    model: nn.Module = getattr(transformers, kind + head)(config)
    if kind == "T5" and not fields.get("tie_word_embeddings", True):
        model.lm_head = nn.Linear(fields["d_model"], fields["vocab_size"], bias=False)
    return model


def save_config(model: nn.Module, directory: Path) -> None:
    """Write a model's ``config.json`` alone, as it stands beside its weights."""
    model.config.architectures = [type(model).__name__]  # type: ignore[union-attr]
    model.config.save_pretrained(directory)  # type: ignore[union-attr,operator]


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return a model's logits of tokens, which an encoder-decoder reads and says; of one sample if it classifies."""
    if "ForSequenceClassification" in type(model).__name__:
        tokens = tokens[:1]
    told = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}  # type: ignore[union-attr]
    with torch.no_grad():
        logits: Tensor = model(tokens, **told)[0]
    return logits


def tensors_in(directory: Path) -> dict[str, Tensor]:
    """Return all tensors of a directory's safetensors files."""
    from safetensors.torch import load_file

    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}
