"""Oracle: transformers' configs of the same files, and files as its older versions wrote them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megalm.errors import UserError
from megalm.models.config import ModelConfig
from megalm.models.config_json import config_json, model_fields
from megalm.validation import validate
from tests.hugging_face.directories import MODELS, built, save_config

OLD_GPT2 = {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40, "vocab_size": 61}
OLD_LLAMA = {
    **{"model_type": "llama", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 61},
    **{"intermediate_size": 50, "max_position_embeddings": 40, "rope_theta": 500.0},
}
OLD_NEOX = {
    **{name: value for name, value in OLD_LLAMA.items() if name != "rope_theta"},
    **{"model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 500, "hidden_act": "gelu_fast"},
}

OLD_T5 = {
    **{"model_type": "t5", "d_model": 24, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 3, "vocab_size": 61},
    **{"decoder_start_token_id": 0, "layer_norm_epsilon": 1e-6, "is_encoder_decoder": True},
}
OLD_T5_GATED = {**OLD_T5, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 3}


def written(directory: Path, content: Mapping[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(content))
    return directory


def theirs(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers makes of a file, without what says nothing of the model."""
    from transformers import AutoConfig

    given = {name: value for name, value in content.items() if name != "model_type"}
    found: dict[str, Any] = AutoConfig.for_model(content["model_type"], **given).to_dict()
    aside = ("position_embedding_type", "architectures", "dtype", "transformers_version", "_name_or_path", "n_inner")
    return {name: value for name, value in found.items() if name not in aside}


@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_writes_comes_back(name: str, tmp_path: Path) -> None:
    save_config(built(*MODELS[name]), tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    model = validate(ModelConfig, model_fields(tmp_path)).model_dump()
    ids = {name: value for name, value in before.items() if name.endswith("_token_id")}
    assert theirs(config_json(model, "float32", ids)) == theirs(before)
    assert theirs(config_json(model, "float32", before)) == theirs(before)


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (OLD_GPT2, {"intermediate_size": 96, "tie_word_embeddings": True, "resid_pdrop": 0.1}),
        (OLD_LLAMA, {"rope_theta": 500.0, "num_key_value_heads": 3, "head_dim": 8, "rms_norm_eps": 1e-6}),
        (OLD_NEOX, {"rotary_pct": 0.5, "rotary_emb_base": 500, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5}),
        (OLD_T5, {"num_decoder_layers": None, "tie_word_embeddings": True, "feed_forward_proj": "relu"}),
        (OLD_T5_GATED, {"num_decoder_layers": 3, "tie_word_embeddings": False, "decoder_start_token_id": 0}),
    ],
    ids=["gpt2", "llama", "gpt_neox", "t5", "t5 gated"],
)
def test_files_of_older_versions_are_read(content: dict[str, Any], fields: dict[str, Any], tmp_path: Path) -> None:
    found = model_fields(written(tmp_path, content))
    assert {name: found[name] for name in fields} == fields
    again = theirs(config_json(validate(ModelConfig, found).model_dump(), "float32", {}))
    expected = theirs(content)
    changed = {name for name in expected if again[name] != expected[name]}
    assert changed <= {"hidden_act"}  # two names of one function


def test_a_directory_fills_the_model_section(tmp_path: Path) -> None:
    directory = str(written(tmp_path, OLD_LLAMA))
    model = validate(ModelConfig, {"from": directory, "attention_dropout": 0.1, "hidden_size": 24})
    assert (model.family, model.num_attention_heads, model.attention_dropout) == ("llama", 3, 0.1)
    assert validate(ModelConfig, model.model_dump(by_alias=True)) == model


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"hidden_size": 25}, "model.hidden_size=25 contradicts"),
        ({"family": "gpt2"}, "model.family=gpt2 contradicts"),
        ({"preset": "llama-1b"}, "model.preset and model.from"),
        ({"n_layer": 3}, "unknown key n_layer"),
    ],
)
def test_what_contradicts_the_file_is_refused(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        validate(ModelConfig, {"from": str(written(tmp_path, OLD_LLAMA)), **given})


def test_scaled_rotation_and_odd_numbers_of_turning_features_are_refused(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0}
    with pytest.raises(UserError, match="by 'yarn'"):
        model_fields(written(tmp_path, {**OLD_LLAMA, "rope_scaling": scaling}))
    with pytest.raises(UserError, match="rotates 1 features"):
        model_fields(written(tmp_path, {**OLD_NEOX, "rotary_pct": 0.2}))


MISTRAL = {**OLD_LLAMA, "model_type": "mistral", "num_key_value_heads": 3}
QWEN2 = {**MISTRAL, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16}
WINDOW = {"pattern": "sliding_window", "window": 16}


@pytest.mark.parametrize(
    ("content", "attention"),
    [
        ({**MISTRAL, "sliding_window": 16}, WINDOW),
        (MISTRAL, {**WINDOW, "window": 4096}),
        ({**MISTRAL, "sliding_window": None}, None),
        ({**QWEN2, "max_window_layers": 0}, WINDOW),
        ({**QWEN2, "max_window_layers": 1}, {**WINDOW, "num_dense_layers": 1}),
        (QWEN2, None),
        ({**QWEN2, "max_window_layers": 0, "use_sliding_window": False}, None),
        ({**QWEN2, "layer_types": ["full_attention", "sliding_attention"]}, {**WINDOW, "num_dense_layers": 1}),
        ({**OLD_LLAMA, "sliding_window": 16}, None),
    ],
)
def test_windows_come_and_go(content: dict[str, Any], attention: dict[str, Any] | None, tmp_path: Path) -> None:
    found = model_fields(written(tmp_path, content))
    assert found.get("attention") == attention
    model = validate(ModelConfig, found).model_dump()
    of_theirs = theirs(content)
    for like in (content, {}):
        ours = theirs(config_json(model, "float32", like))
        name = {"mistral": "sliding_window", "qwen2": "layer_types"}.get(content["model_type"], "vocab_size")
        assert ours[name] == of_theirs[name]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({**MISTRAL, "sliding_window": "wide"}, "sliding_window='wide', which is no number of tokens"),
        ({**QWEN2, "max_window_layers": None}, "max_window_layers=None, which is no number of layers"),
        ({**QWEN2, "layer_types": ["sliding_attention", "full_attention"]}, "a window in all layers but the first"),
    ],
)
def test_windows_that_are_not_built_are_refused(content: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        model_fields(written(tmp_path, content))


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("llama", WINDOW),
        ("mistral", {**WINDOW, "num_dense_layers": 1}),
        ("qwen2", {"pattern": "dilated", "window": 4, "dilation": 2}),
        ("gpt2", {"pattern": "block_sparse", "block_size": 4, "num_local_blocks": 1}),
    ],
)
def test_what_a_file_cannot_say_is_refused(family: str, attention: dict[str, Any]) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "vocab_size": 61}
    model = validate(ModelConfig, {"family": family, **sizes, "attention": attention}).model_dump()
    with pytest.raises(UserError, match=f"cannot be said in the config.json of a {family} model"):
        config_json(model, "float32", {})
    assert config_json({**model, "attention": {"pattern": "dense"}}, "float32", {})["model_type"] == family


def test_a_run_may_have_a_window_of_its_own(tmp_path: Path) -> None:
    source = str(written(tmp_path, {**MISTRAL, "sliding_window": 16}))
    for attention in ({"pattern": "dense"}, {**WINDOW, "window": 8}):
        model = validate(ModelConfig, {"from": source, "attention": attention})
        assert model.attention is not None
        assert model.attention.model_dump(exclude_none=True) == attention


@pytest.mark.parametrize(
    ("scaling", "sentence"),
    [
        ({"rope_type": "llama3", "factor": 2.0}, "of the type llama3 needs"),
        ({"rope_type": "linear", "factor": 2.0, "low_freq_factor": 1.0}, "has a factor only"),
        ({"rope_type": "linear"}, "rope_scaling.factor is missing"),
        ({"rope_type": "yarn", "factor": 2.0}, "rope_scaling.rope_type must be"),
    ],
)
def test_scalings_that_do_not_fit_are_refused(scaling: dict[str, Any], sentence: str) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "vocab_size": 61}
    with pytest.raises(UserError, match=sentence):
        validate(ModelConfig, {"family": "llama", **sizes, "rope_scaling": scaling})
