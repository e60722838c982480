"""Oracle: parameters as transformers builds them on the meta device, and slices by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from megalm.cli.main import run
from megalm.hugging_face.counterpart import counterpart
from megalm.hugging_face.importer import config_of
from megalm.hugging_face.plan import shown
from megalm.models.config import ModelConfig
from megalm.models.config_json import FREE, model_fields
from megalm.training.model import whole_specs
from megalm.validation import validate
from tests.hugging_face.directories import MODELS, built, save_config

NEOX_20B: Mapping[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "attention_probs_dropout_prob": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu_fast",
    "hidden_dropout_prob": 0,
    "hidden_size": 6144,
    "initializer_range": 0.02,
    "intermediate_size": 24576,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 64,
    "num_hidden_layers": 44,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.19.0.dev0",
    "use_cache": True,
    "vocab_size": 50432,
}
"""As published with the weights (Black et al. 2022)."""

BERT_BASE: Mapping[str, Any] = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
"""As published with the weights of bert-base-uncased (Devlin et al. 2019)."""

RENAMED = {"lm_head.weight": "embed_out.weight"}
"""Names in files where transformers' modules have another: it changes them when it loads and saves."""


def directory_of(config: Mapping[str, Any], path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


def theirs(kind: str, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the names, as files have them, and shapes of transformers' parameters; a tied head counts once."""
    with torch.device("meta"):
        model = built(kind, fields)
    biases = [(name, buffer) for name, buffer in model.named_buffers() if name == "final_logits_bias"]
    names = {name: tuple(tensor.shape) for name, tensor in [*model.named_parameters(), *biases]}
    return {RENAMED.get(name, name) if kind.startswith("GPTNeoX") else name: shape for name, shape in names.items()}


def ours(source: Path) -> dict[str, tuple[int, ...]]:
    config = config_of(source).model
    return {region.name: region.shape for region in counterpart(config, whole_specs(config)).regions.values()}


@pytest.mark.parametrize(
    ("preset", "published"), [("gpt-neox-20b", NEOX_20B), ("bert-base-uncased", BERT_BASE)], ids=["neox", "bert"]
)
def test_presets_are_what_was_published(preset: str, published: Mapping[str, Any], tmp_path: Path) -> None:
    """But for dropout, which a run chooses."""
    found = model_fields(directory_of(published, tmp_path / "published"))
    ours = validate(ModelConfig, {"preset": preset}).model_dump()
    assert {name: value for name, value in found.items() if ours[name] != value and name not in FREE} == {}


def test_gpt_neox_20b_has_the_parameters_that_transformers_builds(tmp_path: Path) -> None:
    found = ours(directory_of(NEOX_20B, tmp_path / "neox"))
    assert found == theirs("GPTNeoX", NEOX_20B)
    assert sum(torch.Size(shape).numel() for shape in found.values()) == 20_554_567_680


def test_bert_base_has_the_parameters_that_transformers_builds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = directory_of(BERT_BASE, tmp_path / "bert")
    assert ours(source) == theirs("Bert", BERT_BASE)
    assert run(["import", str(source), "--plan", "layout.tp=8", "layout.pp=4"], {}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("pp ")]) == 32
    query = "bert.encoder.layer.0.attention.self.query.weight"
    ours_ = "model.layers.0.self_attn.q_proj.weight"  # 12 heads of 64 over 8 ranks: the first has two
    assert f"  model.safetensors: {query}[0:128, 0:768] -> {ours_}[0:128, 0:768]" in lines


@pytest.mark.parametrize("name", MODELS)
def test_tiny_ones_have_them_too(name: str, tmp_path: Path) -> None:
    kind, fields = MODELS[name]
    save_config(built(kind, fields), tmp_path)
    assert ours(tmp_path) == theirs(kind, fields)


def test_the_plan_of_gpt_neox_20b(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """8 heads of 96 a tensor rank; the first file of the index has the embedding."""
    source = directory_of(NEOX_20B, tmp_path / "neox")
    names = ours(source)
    files = {name: f"model-{number:05d}.safetensors" for number, name in enumerate(names)}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert run(["import", str(source), "--plan", "layout.tp=8", "layout.pp=4"], {}) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line.startswith("pp ")]
    assert len(heads) == 32
    first = lines[lines.index(heads[0]) : lines.index(heads[1])]
    assert (
        "  model-00000.safetensors: gpt_neox.embed_in.weight[0:6336, 0:6144] -> "
        "model.embed_tokens.weight[0:6336, 0:6144]"
    ) in first
    query = "gpt_neox.layers.0.attention.query_key_value.weight"
    assert (
        f"  {files[query]}: {query}[96:192 +288 x8, 0:6144] -> model.layers.0.self_attn.k_proj.weight[0:768, 0:6144]"
    ) in first
    total = sum(int(line.split()[-2].replace(",", "")) for line in heads)
    replicated = sum(spec.shape[0] for spec in whole_specs(config_of(source).model, 8).values() if spec.split is None)
    assert total == 20_554_567_680 + 7 * replicated  # each element once, those that are whole on each rank eight times


def test_the_plan_needs_no_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["import", str(directory_of(BERT_BASE, tmp_path / "bert")), "--plan"], {}) == 0
    assert "there is no index" in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "t5",
            {
                "pp 0, tp 0": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight[0:32, 0:2] -> "
                "encoder.relative_attention_bias.weight[0:32, 0:2]",
                "pp 0, tp 1": "shared.weight[505:1009, 0:24] -> shared.weight[505:1009, 0:24]",
                "pp 1, tp 0": "shared.weight[0:505, 0:24] -> shared.weight[0:505, 0:24]",
                "pp 1, tp 1": "decoder.block.1.layer.1.EncDecAttention.k.weight[16:24, 0:24] -> "
                "decoder.layers.1.cross_attn.k_proj.weight[16:24, 0:24]",
            },
        ),
        (
            "bart",
            {
                "pp 0, tp 0": "model.encoder.layers.0.self_attn.v_proj.weight[0:16, 0:24] -> "
                "encoder.layers.0.self_attn.v_proj.weight[0:16, 0:24]",
                "pp 1, tp 1": "final_logits_bias[0:1, 505:1009] -> lm_head.bias[505:1009]",
            },
        ),
    ],
)
def test_the_plan_of_an_encoder_decoder(
    name: str, lines: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three heads, and of 1009 tokens, the first of two tensor ranks has one more; both stages read the table."""
    save_config(built(*MODELS[name]), tmp_path)
    assert run(["import", str(tmp_path), "--plan", "layout.tp=2", "layout.pp=2"], {}) == 0
    found: dict[str, list[str]] = {}
    rank = ""
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("pp "):
            rank = line.partition(":")[0]
        found.setdefault(rank, []).append(line.removeprefix("  model.safetensors: "))
    assert {rank: line for rank, line in lines.items() if line not in found[rank]} == {}


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ([(slice(0, 4), slice(0, 8))], "[0:4, 0:8]"),
        ([(slice(0, 2),), (slice(6, 8),), (slice(12, 14),)], "[0:2 +6 x3]"),
        ([(slice(1, 2),), (slice(6, 8),)], "[1:2 6:8]"),
        ([], "[]"),
    ],
)
def test_slices_in_words(places: list[tuple[slice, ...]], text: str) -> None:
    assert shown(places) == text


@pytest.mark.parametrize("words", [[], ["a", "b"], ["a", "--plan"]])
def test_words_that_do_not_fit_are_refused(words: list[str], tmp_path: Path) -> None:
    source = directory_of(NEOX_20B, tmp_path / "neox")
    assert run(["import", str(source), *words], {}) == 2
