"""The model section out of Hugging Face's ``config.json``, and back. No torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megalm.errors import UserError, suggestion

CONFIG = "config.json"

FREE = frozenset(
    {
        *("initializer_range", "embd_pdrop", "attn_pdrop", "resid_pdrop", "hidden_dropout", "attention_dropout"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    }
)
"""Fields of a model section that weights do not depend on: a run may have its own."""

TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
"""Names of the tanh form of GELU, which their modules write down differently."""

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
    """

    architecture: str
    names: Mapping[str, str]
    absent: Mapping[str, Any]
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    base: str = "model"


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
        {**_LLAMA, "sliding_window": "sliding_window"},
        {**_LLAMA_ABSENT, "num_key_value_heads": 8, "sliding_window": 4096},
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
    "qwen2": Dialect("Qwen2ForCausalLM", _LLAMA, _LLAMA_ABSENT, {**_SILU, "use_sliding_window": (False,)}),
}
"""By family, which is the file's ``model_type``."""

SCALINGS = ("linear", "llama3")
_SCALING_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")

KINDS: Mapping[type, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    float: ((int, float), "number"),
    str: (str, "text"),
    int: (int, "whole number"),
    type(None): (int, "whole number"),
}
"""What a value must be, by the type of what stands for it when it is absent; sizes have nothing that does."""

_ROTATION = {"rope_theta": "rope_theta", "rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}
"""Our fields that newer files keep together under ``rope_parameters``, under which names."""


def read_config(directory: Path) -> dict[str, Any]:
    """Return what a directory's ``config.json`` says.

    Raises:
        UserError: there is none, or it is of no family that we build.
    """
    path = directory / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory} has no {CONFIG}; name a directory as save_pretrained writes it.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again.") from error
    family = found.get("model_type") if isinstance(found, dict) else None
    if not isinstance(family, str):
        raise UserError(f"{path} does not say its model_type; name a directory as save_pretrained writes it.")
    if family not in DIALECTS:
        hint = suggestion(family, DIALECTS) or "."
        raise UserError(f"{path} is of a {family!r} model, and what can be read is {', '.join(DIALECTS)}{hint}")
    return found  # type: ignore[no-any-return]


def model_fields(directory: Path) -> dict[str, Any]:
    """Return the fields of the model section that a directory's ``config.json`` stands for.

    Raises:
        UserError: it cannot be read, lacks a size, or asks for what is not built.
    """
    found = read_config(directory)
    path, family = directory / CONFIG, found["model_type"]
    dialect = DIALECTS[family]
    for key, values in dialect.only.items():
        if found.get(key, values[0]) not in values:
            raise UserError(f"{path} has {key}={found[key]!r}, and the family {family} is built with {values[0]!r}.")
    rotation = _rotation(found)
    fields: dict[str, Any] = {"family": family}
    for name, key in dialect.names.items():
        value = rotation.get(_ROTATION.get(name, ""), found.get(key, dialect.absent.get(name)))
        if value is None and name not in dialect.absent:
            raise UserError(f"{path} does not say {key}, which a {family} model needs.")
        fields[name] = value
        kind, words = KINDS[type(dialect.absent.get(name))]
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            raise UserError(f"{path} has {key}={value!r}, which is no {words}; fetch it again.")
    if fields.get("hidden_act") in TANH_GELU:
        fields["hidden_act"] = "gelu_new"
    if "rope_theta" in fields or "rotary_pct" in fields:
        fields["rope_scaling"] = _scaling(rotation, path)
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    if all(isinstance(size, int) and size > 0 for size in (hidden, heads)):
        derived = {"intermediate_size": 4 * hidden, "num_key_value_heads": heads, "head_dim": hidden // heads}
        fields |= {name: value for name, value in derived.items() if name in fields and fields[name] is None}
        turning = hidden // heads * fields.get("rotary_pct", 0)
        if isinstance(turning, float) and int(turning) % 2:
            raise UserError(f"{path} rotates {int(turning)} features of a head, and rotation takes pairs.")
    return fields


def _rotation(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the file says of the rotation in one place, older files' own key for scaling among it."""
    return {**(found.get("rope_scaling") or {}), **(found.get("rope_parameters") or {})}


def _scaling(rotation: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """Return what the rotation's frequencies are changed by, every key of it; ``None`` if they are not."""
    kind = rotation.get("rope_type", rotation.get("type", "default"))
    if kind == "default":
        return None
    if kind not in SCALINGS:
        raise UserError(f"{path} scales its rotation by {kind!r}, and what is built is {', '.join(SCALINGS)}.")
    return {"rope_type": kind, **{key: rotation.get(key) for key in _SCALING_KEYS}}


def config_json(model: Mapping[str, Any], dtype: str, like: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``config.json`` says for a model section.

    Args:
        model: a resolved model section.
        dtype: of the weights, as torch calls it.
        like: the file that the model came from, if it came from one; what we do not know of it stays, ids of special
            tokens for example.
    """
    dialect = DIALECTS[model["family"]]
    ours = {key: model[name] for name, key in dialect.names.items()}
    only = {key: values[0] for key, values in dialect.only.items() if key not in like and key not in ours}
    ours |= {"model_type": model["family"], "architectures": [dialect.architecture], "torch_dtype": dtype}
    if model.get("rope_scaling") is not None:
        ours["rope_scaling"] = {name: value for name, value in model["rope_scaling"].items() if value is not None}
    if model.get("head_dim") == model["hidden_size"] // model["num_attention_heads"]:
        ours.pop("head_dim", None)  # what it is where a file does not say
    own = ("rope_parameters", "rope_scaling", "dtype", "head_dim")
    return {**{key: value for key, value in like.items() if key not in own}, **only, **ours}
