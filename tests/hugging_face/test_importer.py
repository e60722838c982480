"""Oracle: the files and logits of transformers' own models, randomly initialised, and the directory that went in."""

import json
from pathlib import Path

import pytest
import torch

from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import open_newest
from megalm.cli.main import run
from megalm.errors import UserError
from megalm.hugging_face.importer import config_of, import_share
from megalm.mesh import Axis, Mesh
from megalm.run_config import RunConfig
from megalm.training.build import build_model
from megalm.validation import validate
from tests.hugging_face.directories import MODELS, logits_of, make, tensors_in
from tests.ranks import RankContext, RankPool


@pytest.mark.parametrize("name", MODELS)
def test_what_goes_in_comes_out_bit_by_bit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, ours, back = tmp_path / "theirs", tmp_path / "ours", tmp_path / "back"
    model = make(name, source, shard="20KB")
    assert run(["import", str(source), str(ours)], {}) == 0
    said = capsys.readouterr().out
    assert str(ours / "checkpoints" / "step-00000000") in said
    assert "logits equal those of transformers" in said
    assert run(["export", str(ours), str(back)], {}) == 0
    assert "logits equal those of transformers" in capsys.readouterr().out

    before, after = tensors_in(source), tensors_in(back)
    assert before.keys() == after.keys()
    assert {key for key in before if not torch.equal(before[key], after[key])} == set()
    tokens = torch.arange(30).view(2, 15)
    again, told = type(model).from_pretrained(back, output_loading_info=True)  # type: ignore[attr-defined]
    assert {kind: list(names) for kind, names in told.items() if names} == {}
    assert torch.equal(logits_of(again.eval(), tokens), logits_of(model, tokens))


def test_a_head_for_pairs_that_a_directory_lacks_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make("bert", tmp_path / "theirs", head="ForMaskedLM")
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 0
    said = capsys.readouterr().out
    assert "pair_head.classifier.weight" in said
    assert "logits equal those of transformers" in said
    assert run(["export", str(tmp_path / "ours"), str(tmp_path / "back")], {}) == 0
    before, after = tensors_in(tmp_path / "theirs"), tensors_in(tmp_path / "back")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert after["bert.pooler.dense.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    assert not after["bert.pooler.dense.bias"].any()
    again = type(model).from_pretrained(tmp_path / "back").eval()  # type: ignore[attr-defined]
    tokens = torch.arange(30).view(2, 15)
    assert torch.equal(logits_of(again, tokens), logits_of(model, tokens))


@pytest.mark.parametrize("name", ["gpt2 untied, vocabulary 1009", "bert", "roberta"])
def test_a_model_of_text_becomes_one_of_samples(name: str, tmp_path: Path) -> None:
    """What lies below the heads is the directory's, BERT's pooler too; the rest is as a new run begins."""
    make(name, tmp_path)
    text = config_of(tmp_path)
    tree = {**text.model_dump(by_alias=True), "objective": {"name": "classify"}}
    samples = validate(RunConfig, {**tree, "model": {"from": str(tmp_path), "num_labels": 3}})
    drawn = validate(RunConfig, {**tree, "model": samples.model.model_dump(exclude={"from_"})})
    of_text, of_samples, new = (
        dict(build_model(config, Mesh.alone()).named_parameters()) for config in (text, samples, drawn)
    )
    if name == "bert":
        of_text |= {f"score.pooler.{kind}": of_text[f"pair_head.pooler.{kind}"] for kind in ("weight", "bias")}
    assert any(key not in of_text for key in of_samples)
    assert all(torch.equal(value, (of_text if key in of_text else new)[key]) for key, value in of_samples.items())


def test_a_head_that_shares_its_table_but_is_not_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("t5", tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scale_decoder_outputs": False}))
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 0
    assert "logits equal those of transformers" in capsys.readouterr().out
    assert run(["export", str(tmp_path / "ours"), str(tmp_path / "back")], {}) == 0
    assert "logits equal those of transformers" in capsys.readouterr().out
    after = tensors_in(tmp_path / "back")
    assert torch.equal(after["lm_head.weight"], after["shared.weight"])


def test_bart_without_its_head(tmp_path: Path) -> None:
    """As the files of bart-base are: no ``model.`` before the names, and no numbers to add to logits."""
    model = make("bart", tmp_path / "whole")
    model.model.save_pretrained(tmp_path / "theirs")  # type: ignore[union-attr,operator]
    assert "shared.weight" in tensors_in(tmp_path / "theirs")
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 0
    assert run(["export", str(tmp_path / "ours"), str(tmp_path / "back")], {}) == 0
    before, after = tensors_in(tmp_path / "whole"), tensors_in(tmp_path / "back")
    assert not after.pop("final_logits_bias").any()
    assert all(torch.equal(before[key], after[key]) for key in after)


@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, "bf16"), (torch.float64, "fp64")])
def test_other_dtypes_come_out_as_they_went_in(dtype: torch.dtype, precision: str, tmp_path: Path) -> None:
    source, ours, back = tmp_path / "theirs", tmp_path / "ours", tmp_path / "back"
    make("llama, 3 key heads", source, dtype)
    assert run(["import", str(source), str(ours)], {}) == 0
    assert RunConfig.load(ours / "run.yaml").train.precision == precision
    assert run(["export", str(ours), str(back)], {}) == 0
    before, after = tensors_in(source), tensors_in(back)
    assert all(torch.equal(before[key], after[key]) and after[key].dtype == dtype for key in before)


def test_the_run_file_trains_on_from_it(tmp_path: Path) -> None:
    source, ours = tmp_path / "theirs", tmp_path / "ours"
    make("gpt2", source)
    (source / "tokenizer.json").write_text("{}")
    assert run(["import", str(source), str(ours)], {}) == 0
    config = RunConfig.load(ours / "run.yaml")
    assert (config.model.family, config.model.hidden_size, config.model.from_) == ("gpt2", 24, None)
    assert config.checkpoint.load == str(ours / "checkpoints" / "step-00000000")
    assert config.checkpoint.weights_only
    assert (ours / "tokenizer.json").is_file()


def test_a_base_model_without_a_head_is_read_too(tmp_path: Path) -> None:
    """As the files of gpt2 itself are: no ``transformer.`` before the names."""
    model = make("gpt2", tmp_path / "whole")
    model.transformer.save_pretrained(tmp_path / "theirs")  # type: ignore[union-attr,operator]
    assert "wte.weight" in tensors_in(tmp_path / "theirs")
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 0
    assert run(["export", str(tmp_path / "ours"), str(tmp_path / "back")], {}) == 0
    assert tensors_in(tmp_path / "back").keys() == tensors_in(tmp_path / "whole").keys()


def import_on_ranks(context: RankContext, source: Path, out: Path, layout: list[str]) -> None:
    config = config_of(source, layout)
    import_share(config, out, Mesh.build(config.layout, timeout_s=30))


def values_in(directory: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_newest(directory, Axis.alone())
    values = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in checkpoint.names().items()}
    checkpoint.load({name: Piece.whole(value) for name, value in values.items()})
    return values


@pytest.mark.parametrize(
    "name", ["gpt_neox, a quarter rotates, vocabulary 1009", "llama tied, biases, its own head size", "t5", "bert"]
)
def test_several_ranks_write_the_same_checkpoint(name: str, tmp_path: Path, ranks: RankPool) -> None:
    """Four query heads to one key head make shared rows, a tied table lies on both stages, a pair head is drawn."""
    make(name, tmp_path / "theirs", shard="20KB", head="ForMaskedLM" if name == "bert" else None)
    for out, layout in (("alone", []), ("many", ["layout.tp=2", "layout.pp=2"]), ("data", ["layout.dp=2"])):
        size = {"alone": 1, "many": 4, "data": 2}[out]
        ranks.run(size, import_on_ranks, tmp_path / "theirs", tmp_path / out, layout)
    alone = values_in(tmp_path / "alone")
    for out in ("many", "data"):
        others = values_in(tmp_path / out)
        assert alone.keys() == others.keys()
        assert all(torch.equal(alone[key], others[key]) for key in alone)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    make("gpt2", tmp_path / "theirs")
    config = config_of(tmp_path / "theirs")
    import_share(config, tmp_path / "ours", Mesh.alone())
    with pytest.raises(UserError, match="holds checkpoints already"):
        import_share(config, tmp_path / "ours", Mesh.alone())


def test_ids_of_special_tokens_come_back(tmp_path: Path) -> None:
    make("gpt2", tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": 7}))
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 0
    assert run(["export", str(tmp_path / "ours"), str(tmp_path / "back")], {}) == 0
    assert json.loads((tmp_path / "back" / "config.json").read_text())["eos_token_id"] == 7


def test_an_unknown_difference_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that computes otherwise than transformers' does not pass in silence."""
    make("gpt_neox, a quarter rotates, vocabulary 1009", tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    content = json.loads(path.read_text())
    monkeypatch.setattr("megalm.models.config_json._ROTATION", {})
    path.write_text(json.dumps({**content, "rotary_pct": 0.5}))
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 1
