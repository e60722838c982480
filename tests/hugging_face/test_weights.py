"""Oracle: directories broken by hand, each refused in one sentence that names what is wrong, with exit code 2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megalm.cli.main import run
from tests.hugging_face.directories import make

NAME = "llama, 3 key heads"
INDEX = "model.safetensors.index.json"


def rewritten(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of the only file."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def configured(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def truncated(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def without_the_last_shard(directory: Path) -> None:
    make(NAME, directory, shard="20KB")
    max(directory.glob("model-*.safetensors")).unlink()


def outside(directory: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (directory / INDEX).write_text(json.dumps(index))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another family": (lambda d: configured(d, model_type="opt"), "'opt' model"),
    "no family": (lambda d: configured(d, model_type=None), "does not say its model_type"),
    "another of our families": (lambda d: configured(d, model_type="gpt2"), "does not say n_layer"),
    "no size": (lambda d: configured(d, num_attention_heads=None), "does not say num_attention_heads"),
    "a size that is none": (
        lambda d: configured(d, num_hidden_layers="two"),
        "num_hidden_layers='two', which is no whole number",
    ),
    "a rate that is none": (lambda d: configured(d, rms_norm_eps="small"), "rms_norm_eps='small', which is no number"),
    "another activation": (lambda d: configured(d, hidden_act="relu"), "hidden_act='relu'"),
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "a torn config": (lambda d: truncated(d / "config.json", 0.5), "config.json cannot be read"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "a torn file": (lambda d: truncated(d / "model.safetensors", 0.5), "is torn"),
    "a torn header": (lambda d: truncated(d / "model.safetensors", 0.001), "is torn"),
    "a missing shard": (without_the_last_shard, "which its model.safetensors.index.json names"),
    "a torn index": (lambda d: (d / INDEX).write_text("{"), "cannot be read as an index"),
    "a file elsewhere": (outside, "lies outside of its directory"),
    "a missing tensor": (
        lambda d: rewritten(d, lambda tensors: tensors.__delitem__("model.norm.weight")),
        "no tensor 'model.norm.weight'",
    ),
    "a tensor too many": (
        lambda d: rewritten(d, lambda tensors: tensors.update(odd=torch.zeros(1))),
        "a tensor 'odd'",
    ),
    "a shape that does not fit": (
        lambda d: rewritten(d, lambda tensors: tensors.update({"model.norm.weight": torch.ones(25)})),
        "model.norm.weight of shape (25,)",
    ),
    "a shape of the same size": (
        lambda d: rewritten(
            d, lambda tensors: tensors.update({"model.embed_tokens.weight": torch.ones(24, 61).contiguous()})
        ),
        "model.embed_tokens.weight of shape (24, 61)",
    ),
    "whole numbers": (
        lambda d: rewritten(d, lambda tensors: tensors.update({"model.norm.weight": torch.ones(24, dtype=torch.int8)})),
        "model.norm.weight as I8",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_directory_is_refused(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(NAME, tmp_path / "theirs")
    if fault == "a missing shard":
        (tmp_path / "theirs" / "model.safetensors").unlink()
    breaks, sentence = FAULTS[fault]
    breaks(tmp_path / "theirs")
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 2
    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert "\n" not in told
    assert not (tmp_path / "ours" / "run.yaml").exists()


def test_norms_under_the_names_of_older_files(tmp_path: Path) -> None:
    """As bert-base-uncased itself has them, and a second copy of what the head shares."""
    make("bert", tmp_path / "theirs")

    def older(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["bert.embeddings.position_ids"] = torch.arange(40).unsqueeze(0)

    rewritten(tmp_path / "theirs", older)
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 0


def test_masks_of_older_files_and_a_second_copy_of_a_tied_head_are_left_aside(tmp_path: Path) -> None:
    make("gpt2", tmp_path / "theirs")

    def older(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 40, 40)
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()

    rewritten(tmp_path / "theirs", older)
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 0


@pytest.mark.parametrize(("name", "base"), [("t5", ""), ("bart", "model.")])
def test_copies_of_a_shared_table_and_a_bias_that_nothing_reads_are_left_aside(
    name: str, base: str, tmp_path: Path
) -> None:
    """As t5-small itself has them."""
    make(name, tmp_path / "theirs")

    def older(tensors: dict[str, torch.Tensor]) -> None:
        for copy in (f"{base}encoder.embed_tokens.weight", f"{base}decoder.embed_tokens.weight", "lm_head.weight"):
            tensors[copy] = tensors[f"{base}shared.weight"].clone()
        if name == "t5":
            tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(32, 3)

    rewritten(tmp_path / "theirs", older)
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 0


def test_a_bart_whose_tables_are_not_shared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("bart", tmp_path / "theirs")
    configured(tmp_path / "theirs", tie_word_embeddings=False)
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 2
    assert "tie_word_embeddings=False" in capsys.readouterr().err
