"""Oracle: the defaults of Hugging Face's configs, and the refusals that the run file promises."""

from typing import Any

import pytest

from megalm.errors import UserError
from megalm.models.config import FAMILY_DEFAULTS, ModelConfig
from megalm.models.decoder_shape import DECODERS, DecoderShape
from megalm.models.presets import PRESETS
from megalm.run_config import RunConfig
from megalm.validation import validate

SIZES = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 6, "vocab_size": 61}


def config_of(**fields: Any) -> ModelConfig:
    return validate(ModelConfig, {**SIZES, **fields})


def refusal(**fields: Any) -> str:
    tree = {name: value for name, value in {**SIZES, **fields}.items() if value != "left out"}
    with pytest.raises(UserError) as refused:
        validate(ModelConfig, tree)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def hugging_face_defaults() -> dict[str, Any]:
    import transformers

    names = {"gpt2": "GPT2", "gpt_neox": "GPTNeoX", "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}
    names |= {"t5": "T5", "bart": "Bart"}
    return {family: getattr(transformers, f"{name}Config")() for family, name in names.items()}


def test_what_is_left_out_is_hugging_faces_default() -> None:
    """Sizes apart, and dropouts, which are off here unless asked for."""
    renamed = {"max_position_embeddings": "n_positions"}
    for family, theirs in hugging_face_defaults().items():
        ours = config_of(family=family)
        for name in FAMILY_DEFAULTS[family]:
            if "drop" in name:
                assert getattr(ours, name) == 0
            elif name in ("rope_theta", "rotary_emb_base"):
                assert getattr(ours, name) == theirs.rope_parameters["rope_theta"]
            elif name == "rotary_pct":
                assert ours.rotary_pct == theirs.rope_parameters["partial_rotary_factor"]
            elif name in ("rope_scaling", "attention"):
                assert getattr(ours, name) is None  # windows are taken from files, and not for granted
            elif name == "decoder_start_token_id":
                assert ours.decoder_start_token_id is None  # the tokenizer's padding
            else:
                their_name = name if family != "gpt2" else renamed.get(name, name)
                assert getattr(ours, name) == getattr(theirs, their_name), (family, name)
        if family != "t5":
            assert ours.initializer_range == (theirs.init_std if family == "bart" else theirs.initializer_range)


def test_activations_are_hugging_faces_defaults() -> None:
    gelu = {"gpt2": "gelu_new", "gpt_neox": "gelu", "llama": "silu", "mistral": "silu", "qwen2": "silu"}
    for family in sorted(DECODERS):
        theirs = hugging_face_defaults()[family]
        shape = DecoderShape.of(config_of(family=family))
        assert gelu[family] == (theirs.activation_function if family == "gpt2" else theirs.hidden_act)
        assert shape.tanh_gelu == (gelu[family] == "gelu_new")
        assert shape.gated_mlp == (gelu[family] == "silu")


@pytest.mark.parametrize(
    ("family", "hidden", "inner"),
    [("gpt2", 48, 192), ("gpt_neox", 48, 192), ("llama", 48, 128), ("llama", 192, 512), ("llama", 4092, 10944)],
)
def test_the_inner_size_follows_the_family(family: str, hidden: int, inner: int) -> None:
    """Four times the hidden size; for llama two thirds of that, rounded up to a multiple of 64."""
    assert config_of(family=family, hidden_size=hidden).intermediate_size == inner
    assert config_of(family=family, hidden_size=hidden, intermediate_size=7).intermediate_size == 7


def test_llamas_heads_follow_from_one_another() -> None:
    config = config_of(family="llama")
    assert (config.num_key_value_heads, config.head_dim) == (6, 8)
    config = config_of(family="llama", head_dim=10, num_key_value_heads=2)
    assert (config.num_key_value_heads, config.head_dim) == (2, 10)
    assert config_of(family="gpt2").num_key_value_heads is None


def test_a_key_set_to_null_takes_its_default() -> None:
    assert config_of(family="llama", num_key_value_heads=None, rms_norm_eps=None) == config_of(family="llama")
    assert config_of(family="gpt2", attention_bias=None) == config_of(family="gpt2")


def test_a_preset_gives_what_is_left_out() -> None:
    config = validate(ModelConfig, {"preset": "llama-1b", "num_hidden_layers": 4})
    assert config.family == "llama"
    assert config.num_hidden_layers == 4
    assert (config.hidden_size, config.num_key_value_heads, config.head_dim) == (2048, 8, 64)
    assert config.tie_word_embeddings
    assert config.rope_theta == 500000.0


@pytest.mark.parametrize("preset", PRESETS)
def test_a_resolved_preset_is_a_fixed_point(preset: str) -> None:
    config = validate(ModelConfig, {"preset": preset})
    assert validate(ModelConfig, config.model_dump()) == config
    assert validate(ModelConfig, config.model_dump(exclude_none=True)) == config


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"family": "gpt3"}, "model.family: 'gpt3' is not known; did you mean 'gpt2'? Choose"),
        ({"family": "bloom"}, "model.family: 'bloom' is not known. Choose one of gpt2, gpt_neox, llama, mistral, "),
        ({"preset": "gpt2-124M"}, "model.preset: 'gpt2-124M' is not known; did you mean 'gpt2-124m'? Choose"),
        ({"preset": "mamba"}, "model.preset: 'mamba' is not known. Choose one of gpt2-124m"),
        ({"family": "left out"}, "family is missing and has no default; add it."),
        ({"family": "gpt2", "vocab_size": "left out"}, "vocab_size is missing and has no default; add it."),
        ({"family": "gpt2", "hiden_size": 3}, "unknown key hiden_size; did you mean hidden_size?"),
        ({"family": "gpt2", "rotary_pct": 0.5}, "model.rotary_pct has no effect in the family gpt2; remove it."),
        ({"family": "gpt2", "head_dim": 8}, "model.head_dim has no effect in the family gpt2; remove it."),
        ({"family": "gpt2", "attention_dropout": 0.1}, "model.attention_dropout has no effect in the family gpt2"),
        ({"family": "gpt_neox", "resid_pdrop": 0.1}, "model.resid_pdrop has no effect in the family gpt_neox"),
        ({"family": "bert", "pad_token_id": 1}, "model.pad_token_id has no effect in the family bert"),
        ({"family": "bert", "hidden_act": "gellu"}, "hidden_act must be 'gelu', 'gelu_new', 'relu' or"),
        ({"family": "llama", "hidden_dropout": 0.1}, "model.hidden_dropout has no effect in the family llama"),
        ({"family": "llama", "layer_norm_eps": 1e-5}, "model.layer_norm_eps has no effect in the family llama"),
        ({"family": "llama", "use_parallel_residual": False}, "model.use_parallel_residual has no effect in the"),
        ({"family": "gpt2", "num_attention_heads": 5}, "model.num_attention_heads=5 does not divide"),
        ({"family": "llama", "num_attention_heads": 5}, "model.num_attention_heads=5 does not divide"),
        ({"family": "llama", "num_key_value_heads": 4}, "model.num_key_value_heads=4 does not divide"),
        ({"family": "llama", "head_dim": 7}, "model.head_dim=7 is odd, but rotation takes pairs; choose an even one."),
        ({"family": "llama", "num_attention_heads": 16}, "model.head_dim=3 is odd, but rotation takes pairs"),
        ({"family": "gpt2", "num_hidden_layers": 0}, "num_hidden_layers must be at least 1, not 0."),
        ({"family": "gpt2", "hidden_size": 48.0}, "hidden_size must be a whole number, not 48.0."),
        ({"family": "gpt2", "resid_pdrop": 1.0}, "resid_pdrop must be below 1"),
        ({"family": "gpt_neox", "rotary_pct": 1.5}, "rotary_pct must be at most 1"),
        ({"family": 3}, "family must be text, not 3"),
    ],
)
def test_what_does_not_fit_is_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    if "preset" in fields:
        fields = {**fields, "family": "left out"}
    assert refusal(**fields).startswith(sentence)


def test_the_section_is_named_in_the_run_file() -> None:
    tree = {"model": {"family": "gpt2"}, "data": {"train": [{"path": "x"}]}, "train": {}}
    with pytest.raises(UserError, match=r"^model\.num_hidden_layers is missing and has no default; add it\.$"):
        validate(RunConfig, tree)


def test_a_family_of_ones_own_reads_any_field() -> None:
    config = config_of(family="mine.models:build", num_attention_heads=5, rotary_pct=0.5, options={"width": 4})
    assert config.rotary_pct == 0.5
    assert config.options == {"width": 4}
    assert config.intermediate_size is None


@pytest.mark.parametrize(
    ("family", "fields", "expected"),
    [
        (
            "gpt2",
            {"embd_pdrop": 0.1, "attn_pdrop": 0.2, "resid_pdrop": 0.3},
            {"embedding_dropout": 0.1, "attention_dropout": 0.2, "hidden_dropout": 0.3},
        ),
        (
            "gpt_neox",
            {"hidden_dropout": 0.1, "attention_dropout": 0.2},
            {"embedding_dropout": 0.1, "attention_dropout": 0.2, "hidden_dropout": 0.1},
        ),
        ("llama", {"attention_dropout": 0.2}, {"embedding_dropout": 0.0, "attention_dropout": 0.2}),
        ("gpt2", {}, {"learned_positions": True, "rotary_dim": 0, "attention_bias": True, "mlp_bias": True}),
        ("gpt2", {}, {"scaled_residual_init": True, "rms_norm": False, "tied": True, "parallel_residual": False}),
        ("gpt_neox", {}, {"rotary_dim": 2, "parallel_residual": True, "tied": False, "attention_bias": True}),
        ("gpt_neox", {"rotary_pct": 1.0}, {"rotary_dim": 8, "learned_positions": False, "mlp_bias": True}),
        ("gpt_neox", {"rotary_pct": 0.0, "rotary_emb_base": 7.0}, {"rotary_dim": 0, "rotary_base": 7.0}),
        ("llama", {"head_dim": 10, "rope_theta": 7.0}, {"rotary_dim": 10, "rotary_base": 7.0, "rms_norm": True}),
        ("llama", {"rms_norm_eps": 0.5}, {"eps": 0.5, "attention_bias": False, "mlp_bias": False}),
        ("gpt_neox", {"layer_norm_eps": 0.5}, {"eps": 0.5}),
        ("gpt2", {"layer_norm_epsilon": 0.5}, {"eps": 0.5}),
    ],
)
def test_a_family_spelled_out(family: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    shape = DecoderShape.of(config_of(family=family, **fields))
    assert {name: getattr(shape, name) for name in expected} == expected


def test_an_encoder_decoder_has_two_stacks() -> None:
    config = config_of(family="t5")
    assert (config.num_decoder_layers, config.head_dim, config.num_blocks) == (2, 8, 7)
    config = config_of(family="t5", num_decoder_layers=5, head_dim=7)
    assert (config.num_decoder_layers, config.head_dim, config.num_blocks) == (5, 7, 10)
    config = config_of(family="bart", intermediate_size=99)
    assert (config.num_decoder_layers, config.decoder_attention_heads, config.decoder_ffn_dim) == (2, 6, 99)
    with pytest.raises(UserError, match=r"decoder_attention_heads=5 does not divide model\.hidden_size=48"):
        config_of(family="bart", decoder_attention_heads=5)
    assert config_of(family="gpt2").num_blocks == 4
    with pytest.raises(UserError, match=r"model\.initializer_range has no effect in the family t5"):
        config_of(family="t5", initializer_range=0.2)
    with pytest.raises(UserError, match=r"max_distance=16 is not more than half of the .*num_buckets=32"):
        config_of(family="t5", relative_attention_max_distance=16)
