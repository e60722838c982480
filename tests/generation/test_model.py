"""Oracle: the plain forward of the model that was saved, each sequence alone, on one process in float64."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from megalm import rng
from megalm.errors import UserError
from megalm.generation.asked import asked
from megalm.generation.dialogue_reader import DialogueReader
from megalm.generation.generate import generate
from megalm.generation.model import LanguageModel
from megalm.generation.opened import open_model
from megalm.generation.options import Options
from megalm.generation.reader import SequenceReader
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.validation import validate
from tests.generation.trained import Noting, PlainReading, trained
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, GPT2_UNTIED, LLAMA, LLAMA_TIED, NEOX, NEOX_TIED, run_file

TOLERANCE = 1e-10
PROMPTS = [[5, 17, 3, 90, 2], [44], [8, 8, 9, 60, 2, 31, 7, 7, 1], [0, 1]]
LAYOUTS = {
    "alone": [],
    "tp2": ["layout.tp=2"],
    "pp2": ["layout.pp=2"],
    "tp2 pp2": ["layout.tp=2", "layout.pp=2"],
}
OPTIONS = {
    "greedy": Options(max_new_tokens=12, repetition_penalty=1.2),
    "drawn": Options(max_new_tokens=12, temperature=1.2, top_k=40),
    "searched": Options(max_new_tokens=8, num_beams=3),
}
MOST_NEW = 12


def ends(tokens: Sequence[int]) -> bool:
    return tokens[-1] < 8


def said(reader: Noting) -> list[list[list[int]]]:
    return [generate(reader, PROMPTS, options, ends) for options in OPTIONS.values()]


def said_by_rank(_: RankContext, directory: Path, overrides: list[str]) -> tuple[list[list[list[int]]], list[Tensor]]:
    mesh = Mesh.build(asked(overrides).layout, timeout_s=30)
    reader = Noting(SequenceReader(open_model(directory, overrides, mesh), MOST_NEW))
    found = said(reader)
    return found, [logits.clone() for logits in reader.logits]  # a tensor of inference mode does not travel


@pytest.mark.parametrize(
    ("name", "layout"),
    [(GPT2, "alone"), (GPT2, "pp2"), (LLAMA, "alone"), (LLAMA, "tp2"), (GPT2, "tp2 pp2"), (NEOX, "tp2 pp2")],
)
def test_every_rank_says_what_the_plain_forward_says(ranks: RankPool, tmp_path: Path, name: str, layout: str) -> None:
    _, model = trained(tmp_path, name)
    plain = Noting(PlainReading(model))
    expected = said(plain)
    overrides = LAYOUTS[layout]
    for tokens, logits in ranks.run(asked(overrides).layout.world_size, said_by_rank, tmp_path, overrides):
        assert tokens == expected
        assert len(logits) == len(plain.logits)
        apart = [float((ours - theirs).abs().max()) for ours, theirs in zip(logits, plain.logits, strict=True)]
        assert max(apart) <= TOLERANCE


@pytest.mark.parametrize("name", [GPT2_UNTIED, LLAMA_TIED, NEOX_TIED, NEOX])
def test_other_shapes(tmp_path: Path, name: str) -> None:
    _, model = trained(tmp_path, name)
    reader = SequenceReader(open_model(tmp_path, [], Mesh.alone()), MOST_NEW)
    assert said(Noting(reader)) == said(Noting(PlainReading(model)))


WINDOW = {"pattern": "sliding_window", "window": 5}
PATTERNS = {
    "sliding_window": {**WINDOW, "num_dense_layers": 1},
    "dilated": {"pattern": "dilated", "window": 3, "dilation": 2},
    "block_sparse": {
        **{"pattern": "block_sparse", "block_size": 3, "num_local_blocks": 1},
        **{"num_global_blocks": 1, "num_random_blocks": 1},
    },
}


def read_on(reader: Noting) -> list[list[int]]:
    """Answer a prompt, then one that continues it: of the second only what is new is read by who keeps the first."""
    (first,) = generate(reader, [PROMPTS[2]], OPTIONS["greedy"])
    return [first, *generate(reader, [[*PROMPTS[2], *first, *PROMPTS[0]]], OPTIONS["greedy"])]


def read_on_by_rank(_: RankContext, directory: Path, overrides: list[str]) -> tuple[list[list[int]], list[Tensor]]:
    mesh = Mesh.build(asked(overrides).layout, timeout_s=30)
    reader = Noting(DialogueReader(open_model(directory, overrides, mesh), MOST_NEW))
    return read_on(reader), [logits.clone() for logits in reader.logits]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_hides_the_same_of_what_was_read_before(ranks: RankPool, tmp_path: Path, pattern: str) -> None:
    """Of sequences of several lengths, of one alone, and of a piece that is read at once; all beyond what is seen."""
    _, model = trained(tmp_path, LLAMA, model={"attention": PATTERNS[pattern]})
    plain, plain_on = Noting(PlainReading(model)), Noting(PlainReading(model))
    expected, expected_on = said(plain), read_on(plain_on)
    for layout in ("alone", "tp2", "pp2"):
        overrides = LAYOUTS[layout]
        number = asked(overrides).layout.world_size
        together = ranks.run(number, said_by_rank, tmp_path, overrides)
        on = ranks.run(number, read_on_by_rank, tmp_path, overrides)
        assert [tokens for tokens, _ in together] == [expected] * number, layout
        assert [tokens for tokens, _ in on] == [expected_on] * number, layout
        pairs = [(logits, plain.logits) for _, logits in together] + [(logits, plain_on.logits) for _, logits in on]
        for ours, theirs in pairs:
            apart = [float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True)]
            assert max(apart) <= TOLERANCE, layout


def test_another_precision(tmp_path: Path) -> None:
    _, model = trained(tmp_path, GPT2)
    loaded = open_model(tmp_path / "checkpoints" / "step-00000003", ["train.precision=fp32"], Mesh.alone())
    single = SequenceReader(loaded, MOST_NEW).begin(PROMPTS)
    with torch.no_grad():
        double = PlainReading(model).begin(PROMPTS)
    assert 1e-9 < float((single - double).abs().max()) < 1e-4


def test_nothing_is_drawn_that_is_read_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = trained(tmp_path, LLAMA)
    monkeypatch.delattr(rng, "fill_normal")
    with torch.no_grad():
        found = SequenceReader(open_model(tmp_path, [], Mesh.alone()), MOST_NEW).begin(PROMPTS)
        assert float((found - PlainReading(model).begin(PROMPTS)).abs().max()) <= TOLERANCE


def test_a_model_that_gives_no_logits_is_refused() -> None:
    tree = run_file(GPT2).model_dump(mode="json", by_alias=True)
    tree["model"] = {**tree["model"], "family": "tests.generation.test_model:Lossy"}
    with pytest.raises(UserError, match="gives no logits of a next token"):
        LanguageModel(validate(RunConfig, tree), Mesh.alone())


class Lossy(nn.Linear):
    """A model of a user's own that only knows its loss."""

    def __init__(self, *_: object) -> None:
        super().__init__(3, 3)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["layout.dp=2"], "layout.dp has no effect here"),
        (["model.hidden_size=2"], "model.hidden_size has no effect here"),
        (["layout.tp=nine"], "layout.tp must be a whole number"),
    ],
)
def test_what_may_be_set(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        asked(overrides)


def test_a_directory_without_weights(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no complete checkpoint yet"):
        open_model(tmp_path, [], Mesh.alone())
    with pytest.raises(UserError, match="is no checkpoint"):
        open_model(tmp_path / "elsewhere", [], Mesh.alone())
