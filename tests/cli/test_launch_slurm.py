"""Oracle: one sentence and exit code 2 for what Slurm need not be asked about; the batch file that is printed."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from megalm.cli.main import run
from megalm.launcher.job import Job

ENOUGH = ("--nodes", "2", "--ntasks-per-node", "2", "--time", "60")
Launch = Callable[..., int]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Return ``megalm launch slurm`` of a run of 4 ranks, in a directory of its own."""
    (tmp_path / "small.yaml").write_text(
        "model: {family: gpt2, num_hidden_layers: 1, hidden_size: 8, num_attention_heads: 4, vocab_size: 300}\n"
        "data: {train: [{path: data/small}]}\n"
        "train: {steps: 10}\n"
        "layout: {dp: 4}\n"
    )
    monkeypatch.chdir(tmp_path)
    return lambda *words: run(["launch", "slurm", "small.yaml", *words], {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--nodes", "2", "--time", "60"), "give either --gpus-per-node"),
        ((*ENOUGH, "--gpus-per-node", "2"), "give either --gpus-per-node"),
        (("--ntasks-per-node", "2", "--time", "60"), "Missing option '--nodes'"),
        (("--nodes", "2", "--ntasks-per-node", "2"), "Missing option '--time'"),
        (("--nodes", "3", "--ntasks-per-node", "2", "--time", "60"), "needs 4 ranks"),
        ((*ENOUGH, "layout.dp=1", "layout.tp=4"), "tensor.across_nodes"),
        ((*ENOUGH, "--style", "mpi"), "--style"),
        ((*ENOUGH, "layout.dpp=4"), "unknown key layout.dpp"),
        ((*ENOUGH, "--array", "0-3"), "the tasks of an array would share run.dir=runs/small"),
        ((*ENOUGH, "--array", "0-3", "run.dir=r-%a", "run.seed=x%a"), "run.seed"),
        ((*ENOUGH, "--template", "gone.sbatch"), "the template gone.sbatch cannot be read"),
        ((*ENOUGH, "--time", "soon"), "--time 'soon' is not understood"),
    ],
)
def test_what_cannot_become_a_job_is_one_sentence(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert launch(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_without_slurm_nothing_is_left_behind(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch(*ENOUGH) == 2
    assert "there is no sbatch on this machine" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_dry_run_prints_the_file_and_leaves_nothing(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch(*ENOUGH, "--dry-run", "run.dir=runs/a b", "train.steps=7") == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert text.startswith("#!/bin/bash\n")
    words = ["runs/a b/launched.yaml", "train.steps=7", "run.dir=runs/a b"]
    assert f"run=({shlex.join(words)})\n" in text
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_run_that_is_on_its_way_is_not_launched_again(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the answer of a program in the place of squeue."""
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'PENDING|Resources|'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    Job("slurm", "12", "h0").write(tmp_path / "runs" / "small")
    assert launch(*ENOUGH) == 2
    assert "belongs to job 12, which is PENDING" in capsys.readouterr().err
