"""Oracle: the exit codes of the command line, and transformers' reading of what was written."""

from pathlib import Path

import pytest
import torch

from megalm.cli.main import run
from megalm.launcher.conclusion import Outcome
from tests.hugging_face.directories import make, tensors_in

NAME = "llama, 3 key heads"


def test_several_ranks_import(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(NAME, tmp_path / "theirs", shard="20KB")
    words = ["import", str(tmp_path / "theirs"), str(tmp_path / "ours"), "layout.tp=2"]
    assert run(words, {}) == 0
    assert "logits equal those of transformers" in capfd.readouterr().out
    monkeypatch.delattr("megalm.cli.hugging_face.launch")  # no rank is started in vain
    assert run(words, {}) == 2
    assert "holds checkpoints already" in capfd.readouterr().err


@pytest.mark.parametrize("code", [2, 1])
def test_what_a_rank_cannot_read_is_told_once(
    code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(NAME, tmp_path / "theirs")
    monkeypatch.setattr("megalm.cli.hugging_face.launch", lambda *_: Outcome(code, "a shard is missing."))
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours"), "layout.tp=2"], {}) == code
    assert "a shard is missing." in capsys.readouterr().err


def test_an_export_chooses_its_precision_and_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(NAME, tmp_path / "theirs")
    assert run(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")], {}) == 0
    checkpoint = str(tmp_path / "ours" / "checkpoints" / "step-00000000")
    assert run(["export", checkpoint, str(tmp_path / "back"), "--precision", "bf16"], {}) == 0
    before, after = tensors_in(tmp_path / "theirs"), tensors_in(tmp_path / "back")
    assert all(torch.equal(before[name].bfloat16(), after[name]) for name in before)
    capsys.readouterr()
    assert run(["export", checkpoint, str(tmp_path / "back")], {}) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "theirs"), str(tmp_path / "other")], {}) == 2
    assert "is no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
