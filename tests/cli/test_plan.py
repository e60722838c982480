"""Oracle: closed forms of the bubble and of the micro-batches in flight, and the library that parses the picture."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from megalm.cli.main import run
from megalm.plan.schedule_view import schedule_view
from megalm.run_config import RunConfig

EVEN = ["layout.pp=4", "train.global_batch_size=16", "train.micro_batch_size=2"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A run file whose four stages cost alike but for the head, which is small."""
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: {family: gpt2, num_hidden_layers: 8, hidden_size: 64, num_attention_heads: 4, vocab_size: 8}\n"
        "data: {train: [{path: data/none}]}\n"
        "train: {steps: 10, seq_length: 1}\n"
    )
    return str(file)


@pytest.mark.parametrize(
    ("words", "bubble", "peak"),
    [
        (["pipeline.schedule=gpipe"], 3 / 11, (8, 8, 8, 8)),
        ([], 3 / 11, (4, 3, 2, 1)),
        (["pipeline.schedule=zb-h1"], 3 / 27, (4, 4, 4, 4)),
        (["layout.pp=1"], 0, (1,)),
    ],
)
def test_the_view_has_the_idle_time_and_the_counts_of_the_closed_forms(
    path: str, words: list[str], bubble: float, peak: tuple[int, ...]
) -> None:
    view = schedule_view(RunConfig.load(path, [*EVEN, *words]))
    assert float(view.timetable.bubble) == pytest.approx(bubble, abs=0.01)
    assert view.timetable.peak == peak


def test_it_is_printed_and_written_as_a_picture(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = tmp_path / "schedule.svg"
    assert run(["plan", path, *EVEN, "--show-schedule", "--width", "120", "--svg", str(svg)], {}) == 0
    told = capsys.readouterr().out
    assert told.startswith("1f1b: 4 ranks, 4 stages, 8 micro-batches\nstage 0 on rank 0: embedding, layers 0 to 1, ")
    assert "stage 3 on rank 3: layers 6 to 7, head, " in told
    assert "rank 3  ." in told
    assert "micro-batches in flight at most, rank by rank: 4 3 2 1" in told
    assert ET.parse(svg).getroot().tag.endswith("svg")


def test_a_model_of_ones_own_is_drawn_with_stages_that_cost_alike(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", path, "model.family=mine:build", "layout.pp=2", "--show-schedule"], {}) == 0
    assert "stage 1 on rank 1: its share of the blocks, 50.0% of the work" in capsys.readouterr().out


BROKEN = "0F0,0F1,0B0\n1F0,1F1,1B0,1B1\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "megalm plan only draws schedules so far; add --show-schedule."),
        (["--show-schedule", "layout.pp=11"], "the pipeline has 11 stages, but the model has only 10 blocks"),
        (["--show-schedule", "layout.pp=2", "pipeline.schedule=zb-v", "pipeline.stages_per_rank=1"], "zb-v needs 2"),
        (["--show-schedule", "layout.pp=2", "pipeline.schedule=BROKEN", "train.micro_batch_size=8"], "0B1"),
        (["--show-schedule", "layout.pp=2", "pipeline.schedule=no:such"], "cannot import 'no'"),
        (["--show-schedule", "--svg", "/no/such/folder.svg"], "cannot write /no/such/folder.svg"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence_and_exit_code_2(
    path: str, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.csv").write_text(BROKEN)
    words = [word.replace("BROKEN", str(tmp_path / "broken.csv")) for word in words]
    assert run(["plan", path, *words], {}) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert told.err.count("\n") == 1
