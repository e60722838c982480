"""Oracle: transformers' own reading of the directory, and the values of the checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from megalm.checkpoint.store import CheckpointStore, open_newest
from megalm.errors import UserError
from megalm.hugging_face.exporter import export
from megalm.mesh import Axis, Mesh
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.resume import facts, owned_pieces
from megalm.validation import validate
from tests.hugging_face.directories import tensors_in
from tests.ranks import RankContext, RankPool

MODEL = {"num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "vocab_size": 1009}


def run_of(family: str, layout: dict[str, int], **model: object) -> RunConfig:
    tree = {
        "model": {"family": family, **MODEL, **model},
        "layout": layout,
        "data": {"train": [{"path": "none"}]},
        "train": {"seq_length": 8, "global_batch_size": 4},
    }
    return validate(RunConfig, tree)


def save(context: RankContext, config: RunConfig, directory: Path) -> None:
    """Save a run that has not trained, as each rank of its layout holds it."""
    mesh = Mesh.build(config.layout, timeout_s=30)
    state = build_state(config, mesh)
    store = CheckpointStore(directory / "checkpoints", world=mesh.world, keep=1)
    store.save(3, owned_pieces(state), facts(state, config), asynchronous=False)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_a_run_at_a_layout_comes_out_in_files_of_any_size(family: str, tmp_path: Path, ranks: RankPool) -> None:
    config = run_of(family, {"tp": 2, "pp": 2})
    ranks.run(4, save, config, tmp_path / "run")
    checkpoint = open_newest(tmp_path / "run", Axis.alone())
    assert export(checkpoint, tmp_path / "one") == "fp32"
    export(checkpoint, tmp_path / "many", shard_bytes=30_000)
    assert not (tmp_path / "one" / "model.safetensors.index.json").exists()
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    one, many = tensors_in(tmp_path / "one"), tensors_in(tmp_path / "many")
    assert index["weight_map"].keys() == one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in one.values())
    large = [file for file in files if file.stat().st_size > 40_000]
    assert all(len(tensors_in_file(file)) == 1 for file in large)  # alone too large


def tensors_in_file(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def test_a_family_of_ones_own_is_refused(tmp_path: Path, ranks: RankPool) -> None:
    config = run_of("gpt2", {})
    ranks.run(1, save, config, tmp_path / "run")
    checkpoint = open_newest(tmp_path / "run", Axis.alone())
    checkpoint.facts["config"]["model"]["family"] = "os:system"
    with pytest.raises(UserError, match="of a model of one's own"):
        export(checkpoint, tmp_path / "out")


def test_what_fails_leaves_nothing(tmp_path: Path, ranks: RankPool, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks.run(1, save, run_of("gpt2", {}), tmp_path / "run")
    checkpoint = open_newest(tmp_path / "run", Axis.alone())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("megalm.hugging_face.exporter.save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        export(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
