"""Attention's window as Hugging Face's ``config.json`` says it: of Mistral, and of Qwen2's last layers. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megalm.errors import UserError
from megalm.models.attention_pattern import AttentionConfig

_ABSENT = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
"""What files mean by keys that they leave out."""


def attention_field(found: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """Return the ``attention`` of a model section that a file stands for, ``None`` where all keys are seen.

    Args:
        found: what the file says.
        path: of the file, for messages.

    Raises:
        UserError: the file asks for what is not built.
    """
    said = {name: found.get(name, absent) for name, absent in _ABSENT.items()}
    window, family = said["sliding_window"], found["model_type"]
    if family not in ("mistral", "qwen2") or window is None or (family == "qwen2" and not said["use_sliding_window"]):
        return None
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise UserError(f"{path} has sliding_window={window!r}, which is no number of tokens; fetch it again.")
    dense = 0 if family == "mistral" else _dense_layers(found, said["max_window_layers"], path)
    if dense >= found["num_hidden_layers"]:
        return None
    return {"pattern": "sliding_window", "window": window, **({"num_dense_layers": dense} if dense else {})}


def _dense_layers(found: Mapping[str, Any], said: Any, path: Path) -> int:
    """Return how many first layers see all; newer files say of each layer what it sees."""
    kinds = found.get("layer_types")
    if kinds is None:
        dense = said
    elif isinstance(kinds, list) and kinds == sorted(kinds) and {*kinds} <= {"full_attention", "sliding_attention"}:
        dense = kinds.count("full_attention")
    else:
        raise UserError(f"{path} has layer_types={kinds!r}, and what is built is a window in all layers but the first.")
    if not isinstance(dense, int) or isinstance(dense, bool) or dense < 0:
        raise UserError(f"{path} has max_window_layers={dense!r}, which is no number of layers; fetch it again.")
    return dense


def window_keys(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says of a model section's attention.

    Raises:
        UserError: files of the family cannot say it.
    """
    family = model["family"]
    config = None if model.get("attention") is None else AttentionConfig.model_validate(model["attention"])
    if config is None or config.pattern == "dense":
        none: Mapping[str, dict[str, Any]] = {
            "mistral": {"sliding_window": None},
            "qwen2": {"use_sliding_window": False},
        }
        return none.get(family, {})
    if config.pattern == "sliding_window":
        if family == "qwen2":
            dense = config.num_dense_layers or 0
            return {"use_sliding_window": True, "sliding_window": config.window, "max_window_layers": dense}
        if family == "mistral" and config.num_dense_layers is None:
            return {"sliding_window": config.window}
    raise UserError(
        f"model.attention.pattern={config.pattern} cannot be said in the config.json of a {family} model, which would "
        "see all; a window in all layers can be exported as mistral, one that begins at a later layer as qwen2."
    )
