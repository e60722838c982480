"""Named model sizes, as published."""

from collections.abc import Mapping
from typing import Any


def _gpt2(layers: int, hidden: int, heads: int, positions: int = 1024) -> dict[str, Any]:
    return {
        "family": "gpt2",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "vocab_size": 50257,
        "max_position_embeddings": positions,
    }


def _neox(layers: int, hidden: int, heads: int, vocab_size: int) -> dict[str, Any]:
    return {
        "family": "gpt_neox",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "vocab_size": vocab_size,
        "max_position_embeddings": 2048,
    }


def _llama3(layers: int, hidden: int, heads: int, intermediate: int, tied: bool = False) -> dict[str, Any]:
    return {
        "family": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "intermediate_size": intermediate,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
    }


def _llama2(layers: int, hidden: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "family": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }


def _bert(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    return {
        "family": "bert",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
    }


def _roberta(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    return {
        "family": "roberta",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "vocab_size": 50265,
        "max_position_embeddings": 514,
    }


def _electra(layers: int, hidden: int, heads: int, *, embedding: int, generator: float) -> dict[str, Any]:
    return {
        "family": "electra",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "embedding_size": embedding,
        "generator_size": generator,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
    }


def _t5(layers: int, hidden: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "family": "t5",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "head_dim": 64,
        "intermediate_size": intermediate,
        "vocab_size": 32128,
    }


PRESETS: Mapping[str, dict[str, Any]] = {
    "gpt2-124m": _gpt2(12, 768, 12),
    "gpt2-355m": _gpt2(24, 1024, 16),
    "gpt2-774m": _gpt2(36, 1280, 20),
    "gpt2-1.5b": _gpt2(48, 1600, 25),
    "gpt3-6.7b": _gpt2(32, 4096, 32, 2048),
    "gpt3-13b": _gpt2(40, 5120, 40, 2048),
    "gpt3-175b": _gpt2(96, 12288, 96, 2048),
    "pythia-70m": _neox(6, 512, 8, 50304),
    "pythia-160m": _neox(12, 768, 12, 50304),
    "pythia-410m": _neox(24, 1024, 16, 50304),
    "pythia-1.4b": _neox(24, 2048, 16, 50304),
    "gpt-neox-20b": {**_neox(44, 6144, 64, 50432), "hidden_act": "gelu_new"},
    "llama-1b": _llama3(16, 2048, 32, 8192, tied=True),
    "llama3-8b": _llama3(32, 4096, 32, 14336),
    "llama3-70b": _llama3(80, 8192, 64, 28672),
    "llama2-7b": _llama2(32, 4096, 32, 11008),
    "llama2-13b": _llama2(40, 5120, 40, 13824),
    "bert-base-uncased": _bert(12, 768, 12),
    "bert-large-uncased": _bert(24, 1024, 16),
    "roberta-base": _roberta(12, 768, 12),
    "roberta-large": _roberta(24, 1024, 16),
    "electra-small": _electra(12, 256, 4, embedding=128, generator=1 / 4),
    "electra-base": _electra(12, 768, 12, embedding=768, generator=1 / 3),
    "t5-small": _t5(6, 512, 8, 2048),
    "t5-base": _t5(12, 768, 12, 3072),
    "bart-base": {
        "family": "bart",
        "num_hidden_layers": 6,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "vocab_size": 50265,
        "max_position_embeddings": 1024,
    },
}
"""By name; sources: Radford et al. 2019, Brown et al. 2020 table 2.1, Biderman et al. 2023, Black et al. 2022,
Touvron et al. 2023, Grattafiori et al. 2024, Devlin et al. 2019, Liu et al. 2019, Clark et al. 2020 table 6,
Raffel et al. 2020, Lewis et al. 2020."""
