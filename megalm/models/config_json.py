"""The model section out of Hugging Face's ``config.json``, and back. No torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megalm.errors import UserError, suggestion
from megalm.models.dialects import CLASSIFIER, DIALECTS, TANH_GELU
from megalm.models.window_json import attention_field, window_keys

CONFIG = "config.json"

FREE = frozenset(
    {
        *("initializer_range", "embd_pdrop", "attn_pdrop", "resid_pdrop", "hidden_dropout", "attention_dropout"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "activation_dropout", "dropout_rate"),
        *("initializer_factor", "decoder_start_token_id", "attention"),
    }
)
"""Fields of a model section that weights do not depend on: a run may have its own."""

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
    fields: dict[str, Any] = {"family": family, **_classes(found)}
    for name, key in dialect.names.items():
        said = found.get(dialect.newer.get(name, ""), found.get(key, dialect.absent.get(name)))
        value = rotation.get(_ROTATION.get(name, ""), said)
        if value is None and name not in dialect.absent:
            raise UserError(f"{path} does not say {key}, which a {family} model needs.")
        fields[name] = value
        kind, words = KINDS[type(dialect.absent.get(name))]
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            raise UserError(f"{path} has {key}={value!r}, which is no {words}; fetch it again.")
    fields |= {name: "gelu_new" for name in ("hidden_act", "activation_function") if fields.get(name) in TANH_GELU}
    if "rope_theta" in fields or "rotary_pct" in fields:
        fields["rope_scaling"] = _scaling(rotation, path)
    if (attention := attention_field(found, path)) is not None:
        fields["attention"] = attention
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    if all(isinstance(size, int) and size > 0 for size in (hidden, heads)):
        derived = {"intermediate_size": 4 * hidden, "num_key_value_heads": heads, "head_dim": hidden // heads}
        fields |= {name: value for name, value in derived.items() if name in fields and fields[name] is None}
        turning = hidden // heads * fields.get("rotary_pct", 0)
        if isinstance(turning, float) and int(turning) % 2:
            raise UserError(f"{path} rotates {int(turning)} features of a head, and rotation takes pairs.")
    return fields


def class_keys(names: Sequence[str], num_labels: int) -> dict[str, Any]:
    """Return the keys of a file that name classes by number, ``LABEL_n`` where there is no name."""
    names = [*names, *(f"LABEL_{number}" for number in range(len(names), num_labels))][:num_labels]
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _classes(found: Mapping[str, Any]) -> dict[str, int]:
    """Return how many classes a head for whole samples tells apart, two where the file does not name them."""
    classes = [name for name in found.get("architectures") or () if str(name).endswith(CLASSIFIER)]
    return {"num_labels": len(found.get("id2label") or "10")} if classes else {}


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

    Raises:
        UserError: a file of the family cannot say it.
    """
    dialect = DIALECTS[model["family"]]
    ours = {key: model[name] for names in (dialect.names, dialect.newer) for name, key in names.items()}
    ours = {key: value for key, value in ours.items() if value is not None or not key.endswith("_token_id")}
    only = {key: values[0] for key, values in dialect.only.items() if key not in like and key not in ours}
    num_labels = model.get("num_labels")
    architecture = dialect.architecture_of(num_labels)
    ours |= {"model_type": model["family"], "architectures": [architecture], "torch_dtype": dtype}
    if num_labels is not None and len(like.get("id2label") or ()) != num_labels:
        ours |= class_keys((), num_labels)
    if model.get("rope_scaling") is not None:
        ours["rope_scaling"] = {name: value for name, value in model["rope_scaling"].items() if value is not None}
    if model.get("head_dim") == model["hidden_size"] // model["num_attention_heads"]:
        ours.pop("head_dim", None)  # what it is where a file does not say
    ours |= window_keys(model)
    own = ("rope_parameters", "rope_scaling", "dtype", "head_dim", "layer_types")
    return {**{key: value for key, value in like.items() if key not in own}, **only, **ours}
