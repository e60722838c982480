"""How each family's ``config.json`` at Hugging Face says what a model section does. No torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
"""Names of the tanh form of GELU, which their modules write down differently."""

CLASSIFIER = "ForSequenceClassification"
"""What the names of transformers' classes with a head for whole samples end with."""

_ALIKE = {
    name: name
    for name in (
        *("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "intermediate_size"),
        *("max_position_embeddings", "initializer_range", "tie_word_embeddings"),
    )
}


@dataclass(frozen=True)
class Dialect:
    """How one family's file says what a model section does.

    Args:
        architecture: the class of transformers that has the output head.
        names: the file's key of each field; other keys of the file are not read.
        absent: what the file means by a key that it leaves out, by our field.
        only: keys of the file with the values that mean what we build, the value of an absent key first.
        base: the part of the names of tensors that files without an output head leave out.
        newer: keys under which newer files say a field otherwise, by our field.
    """

    architecture: str
    names: Mapping[str, str]
    absent: Mapping[str, Any]
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    base: str = "model"
    newer: Mapping[str, str] = field(default_factory=dict)

    def architecture_of(self, num_labels: int | None) -> str:
        """Return the class of transformers for a model with a head for whole samples, or for tokens."""
        if num_labels is None:
            return self.architecture
        return re.sub("(LMHeadModel|For[A-Z].*)$", CLASSIFIER, self.architecture)


_LLAMA = {
    **_ALIKE,
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "attention_dropout": "attention_dropout",
}
_LLAMA_ABSENT = {
    "num_key_value_heads": None,
    "head_dim": None,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_dropout": 0.0,
}
_SILU: Mapping[str, tuple[Any, ...]] = {"hidden_act": ("silu", "swish")}

_ENCODER = {
    **_ALIKE,
    "hidden_act": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "type_vocab_size": "type_vocab_size",
    "hidden_dropout_prob": "hidden_dropout_prob",
    "attention_probs_dropout_prob": "attention_probs_dropout_prob",
}
_ENCODER_ABSENT = {
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
_ENCODER_ONLY: Mapping[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}

DIALECTS: Mapping[str, Dialect] = {
    "gpt2": Dialect(
        "GPT2LMHeadModel",
        {
            **_ALIKE,
            "num_hidden_layers": "n_layer",
            "hidden_size": "n_embd",
            "num_attention_heads": "n_head",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
            "layer_norm_epsilon": "layer_norm_epsilon",
            "embd_pdrop": "embd_pdrop",
            "attn_pdrop": "attn_pdrop",
            "resid_pdrop": "resid_pdrop",
        },
        {
            "intermediate_size": None,
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
            "layer_norm_epsilon": 1e-5,
            "embd_pdrop": 0.1,
            "attn_pdrop": 0.1,
            "resid_pdrop": 0.1,
        },
        {
            "activation_function": TANH_GELU,
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        base="transformer",
    ),
    "gpt_neox": Dialect(
        "GPTNeoXForCausalLM",
        {
            **_ALIKE,
            "layer_norm_eps": "layer_norm_eps",
            "attention_bias": "attention_bias",
            "use_parallel_residual": "use_parallel_residual",
            "hidden_act": "hidden_act",
            "rotary_pct": "rotary_pct",
            "rotary_emb_base": "rotary_emb_base",
            "hidden_dropout": "hidden_dropout",
            "attention_dropout": "attention_dropout",
        },
        {
            "initializer_range": 0.02,
            "tie_word_embeddings": False,
            "layer_norm_eps": 1e-5,
            "attention_bias": True,
            "use_parallel_residual": True,
            "hidden_act": "gelu",
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000.0,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
        },
        base="gpt_neox",
    ),
    "llama": Dialect(
        "LlamaForCausalLM",
        {**_LLAMA, "attention_bias": "attention_bias", "mlp_bias": "mlp_bias"},
        {**_LLAMA_ABSENT, "attention_bias": False, "mlp_bias": False},
        _SILU,
    ),
    "mistral": Dialect(
        "MistralForCausalLM",
        _LLAMA,
        {**_LLAMA_ABSENT, "num_key_value_heads": 8},
        _SILU,
    ),
    "bert": Dialect("BertForPreTraining", _ENCODER, _ENCODER_ABSENT, _ENCODER_ONLY, base="bert"),
    "roberta": Dialect(
        "RobertaForMaskedLM",
        {**_ENCODER, "pad_token_id": "pad_token_id"},
        {**_ENCODER_ABSENT, "pad_token_id": 1},
        _ENCODER_ONLY,
        base="roberta",
    ),
    "qwen2": Dialect("Qwen2ForCausalLM", _LLAMA, _LLAMA_ABSENT, _SILU),
    "t5": Dialect(
        "T5ForConditionalGeneration",
        {
            "num_hidden_layers": "num_layers",
            "hidden_size": "d_model",
            "num_attention_heads": "num_heads",
            "head_dim": "d_kv",
            "intermediate_size": "d_ff",
            **{
                name: name
                for name in (
                    *("vocab_size", "num_decoder_layers", "relative_attention_num_buckets", "layer_norm_epsilon"),
                    *("relative_attention_max_distance", "feed_forward_proj", "initializer_factor", "dropout_rate"),
                    *("tie_word_embeddings", "decoder_start_token_id"),
                )
            },
        },
        {
            "num_decoder_layers": None,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "feed_forward_proj": "relu",
            "initializer_factor": 1.0,
            "dropout_rate": 0.1,
            "tie_word_embeddings": True,
            "decoder_start_token_id": None,
        },
        {"is_decoder": (False,)},
        base="",
        newer={"tie_word_embeddings": "scale_decoder_outputs"},
    ),
    "bart": Dialect(
        "BartForConditionalGeneration",
        {
            "num_hidden_layers": "encoder_layers",
            "hidden_size": "d_model",
            "num_attention_heads": "encoder_attention_heads",
            "intermediate_size": "encoder_ffn_dim",
            "num_decoder_layers": "decoder_layers",
            "initializer_range": "init_std",
            **{
                name: name
                for name in (
                    *("vocab_size", "max_position_embeddings", "decoder_attention_heads", "decoder_ffn_dim"),
                    *("tie_word_embeddings", "activation_function", "scale_embedding", "decoder_start_token_id"),
                    *("dropout", "attention_dropout", "activation_dropout"),
                )
            },
        },
        {
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
            "activation_function": "gelu",
            "scale_embedding": False,
            "decoder_start_token_id": None,
            "dropout": 0.1,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
        },
        {"is_decoder": (False,), "tie_word_embeddings": (True,)},
    ),
}
"""By family, which is the file's ``model_type``."""
