"""Oracle: transformers' generate, on the directory that it wrote."""

from pathlib import Path

import pytest
import torch

from megalm.errors import UserError
from megalm.generation.asked import asked
from megalm.generation.generate import generate
from megalm.generation.opened import open_model
from megalm.generation.options import Options
from megalm.generation.reader import SequenceReader
from megalm.mesh import Mesh
from tests.generation.by_transformers import generated
from tests.hugging_face.directories import make
from tests.ranks import RankContext, RankPool

PROMPTS = [[5, 17, 3], [44], [8, 8, 9, 60, 2, 31]]
OPTIONS = Options(max_new_tokens=12, repetition_penalty=1.3)


def said(directory: Path, overrides: list[str], mesh: Mesh) -> list[list[int]]:
    model = open_model(directory, [*overrides, "train.precision=fp64"], mesh)
    return generate(SequenceReader(model, OPTIONS.max_new_tokens), PROMPTS, OPTIONS)


def said_by_rank(_: RankContext, directory: Path, overrides: list[str]) -> list[list[int]]:
    return said(directory, overrides, Mesh.build(asked(overrides).layout, timeout_s=30))


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("gpt2", ["layout.pp=2"]),
        ("llama, 3 key heads", ["layout.tp=2"]),
        ("mistral, a window", ["layout.tp=2"]),
        ("qwen2, a window in its last layer", ["layout.pp=2"]),
    ],
)
def test_a_directory_of_hugging_face(ranks: RankPool, tmp_path: Path, name: str, overrides: list[str]) -> None:
    directory = tmp_path / "model"
    model = make(name, directory, torch.float64)
    expected = [generated(model, prompt, OPTIONS, None) for prompt in PROMPTS]
    assert said(directory, [], Mesh.alone()) == expected
    assert ranks.run(2, said_by_rank, directory, overrides) == [expected] * 2


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    make("gpt2", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors"):
        open_model(tmp_path / "model", [], Mesh.alone())
