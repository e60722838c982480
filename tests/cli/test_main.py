"""Oracle: the table of exit codes, one line on the screen, and which function a verb calls with what."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from megalm.cli import app as verbs
from megalm.cli.main import run
from megalm.errors import TrainingError, UserError
from megalm.launcher.placement import Placement
from megalm.not_built import VERBS
from megalm.run_config import RunConfig
from megalm.training.config import RunSection

ROOT = Path(__file__).parents[2]
LAUNCHERS = ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "PMI_SIZE")
RANK_1_OF_2 = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h0", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # run directories are made there
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(
        "model: {family: gpt2, num_hidden_layers: 1, hidden_size: 8, num_attention_heads: 2, vocab_size: 300}\n"
        "data: {train: [{path: data/small}]}\n"
        "train: {steps: 10}\n"
    )
    return str(path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunConfig, Placement]]:
    """Stand in for the training loop, which needs torch: the calls it got."""
    calls: list[tuple[RunConfig, Placement]] = []

    def train(config: RunConfig, placement: Placement) -> int:
        calls.append((config, placement))
        return 0

    stand_in(monkeypatch, "megalm.training.loop", train=train)
    return calls


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Callable[..., Any]) -> None:
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def test_one_process_trains_here(run_file: str, trained: list[tuple[RunConfig, Placement]]) -> None:
    assert run(["train", run_file, "train.steps=7"], {}) == 0
    ((config, placement),) = trained
    assert (config.train.steps, placement) == (7, Placement.alone())


def test_more_processes_are_started_with_the_same_arguments(
    run_file: str, trained: list[tuple[RunConfig, Placement]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], int]] = []

    def run_ranks(command: list[str], num_ranks: int, run: RunSection) -> int:
        started.append((command, num_ranks))
        return 7

    monkeypatch.setattr(verbs, "run_ranks", run_ranks)
    assert run(["train", run_file, "layout.dp=2", "layout.tp=2"], {}) == 7
    arguments = ["train", run_file, "layout.dp=2", "layout.tp=2"]
    assert started == [([sys.executable, "-m", "megalm", *arguments], 4)]
    assert run(["train", run_file, "run.max_restarts=1"], {}) == 7
    assert started[1:] == [([sys.executable, "-m", "megalm", "train", run_file, "run.max_restarts=1"], 1)]
    assert not trained


def test_under_a_launcher_a_rank_takes_its_place(
    run_file: str, trained: list[tuple[RunConfig, Placement]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in RANK_1_OF_2.items():
        monkeypatch.setenv(name, value)
    assert run(["train", run_file, "layout.tp=2"], {}) == 0
    ((_, placement),) = trained
    assert (placement.rank, placement.world_size) == (1, 2)


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
@pytest.mark.parametrize("override", ["layout.tp=1", "layout.tpp=2"])
def test_what_all_ranks_refuse_rank_0_tells(
    run_file: str,
    trained: list[tuple[RunConfig, Placement]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    lines: int,
    override: str,
) -> None:
    for name, value in {**RANK_1_OF_2, "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    assert run(["train", run_file, override], {}) == 2
    assert not trained
    assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("the corpus is empty; name another."), 2, "megalm: the corpus is empty; name another."),
        (TrainingError("step 3: loss nan."), 1, "megalm: step 3: loss nan."),
        (KeyboardInterrupt(), 130, "megalm: interrupted."),
    ],
)
def test_a_failure_is_one_line_and_its_exit_code(
    run_file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def train(*_: object) -> int:
        raise error

    stand_in(monkeypatch, "megalm.training.loop", train=train)
    assert run(["train", run_file], {}) == code
    assert capsys.readouterr() == ("", f"{said}\n")


def test_a_fault_of_ours_shows_where_it_is(
    run_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, "megalm.training.loop", train=lambda *_: 1 // 0)
    assert run(["train", run_file], {}) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_rank_tells_its_launcher_and_not_the_screen(
    run_file: str, capsys: pytest.CaptureFixture[str], trained: list[tuple[RunConfig, Placement]]
) -> None:
    told, end = os.pipe()
    env = {"MEGALM_VERDICT_FD": str(end)}
    assert run(["train", run_file, "layout.tpp=2"], env) == 2
    verdict = json.loads(os.read(told, 10_000))
    assert (verdict["kind"], verdict["code"]) == ("refused", 2)
    assert verdict["text"] == "unknown key layout.tpp; did you mean layout.tp?"
    assert run(["train", run_file], env) == 0
    assert json.loads(os.read(told, 10_000))["kind"] == "finished"
    assert capsys.readouterr() == ("", "")
    os.close(told)
    os.close(end)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian", "x.yaml"], "megalm has no verb 'trian'; did you mean 'train'?"),
        (["frobnicate"], "megalm has no verb 'frobnicate'; megalm --help lists them."),
        (["train"], "Missing argument 'RUN.yaml'; see megalm train --help."),
        (["train", "x.yaml", "--fast"], "No such option: --fast; see megalm train --help."),
        (
            ["train", "missing.yaml"],
            "cannot read the run file 'missing.yaml' (No such file or directory); check its name.",
        ),
        (["verify", "x.yaml", "--steps", "0"], None),
        (["verify", "x.yaml", "--steps", "many"], None),
        (["verify", "x.yaml", "--scale", "0"], "--scale must be above 0, not 0."),
        (["verify", "x.yaml", "--fp32", "--bf16"], None),
        (["--verison"], None),
        (["data"], "megalm data needs one more word; see megalm data --help."),
        (["data", "preprae"], None),
        (["report"], "Missing argument 'RUN_DIR'; see megalm report --help."),
        *[([verb, "x"], f"megalm {verb} is not built yet; megalm --help lists the verbs that are.") for verb in VERBS],
    ],
)
def test_a_command_line_that_is_not_understood_is_one_sentence(
    arguments: list[str], said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments, {}) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("megalm: ")
    assert len(err.splitlines()) == 1
    assert said is None or err == f"megalm: {said}\n"


def test_verify_hands_its_options_on(run_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def judge(config: RunConfig, *options: object) -> int:
        calls.append((config.layout.tp, *options))
        return 1

    stand_in(monkeypatch, "megalm.verify.command", run=judge)
    assert run(["verify", run_file, "layout.tp=2", "--steps", "5", "--scale", "0.5"], {}) == 1
    assert run(["verify", run_file, "--fp32"], {}) == 1
    assert calls == [(2, 5, 0.5, "fp64"), (1, 3, 1.0, "fp32")]


def test_a_setting_without_effect_is_told(
    run_file: str, trained: list[tuple[RunConfig, Placement]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", run_file, "tensor.sequence_parallel=true"], {}) == 0
    assert capsys.readouterr().err == "megalm: tensor.sequence_parallel=true has no effect: layout.tp is 1.\n"
    assert len(trained) == 1


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], {}) == 0
    assert capsys.readouterr().out == "megalm 0.1.0\n"
    for arguments in ([], ["--help"]):
        assert run(arguments, {}) == 0
        out = capsys.readouterr().out
        assert all(verb in out for verb in ("train", "verify", "data", "doctor", "report", "schema"))
        assert "verify-rank" not in out


def test_the_schema_is_json_with_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"], {}) == 0
    schema = json.loads(capsys.readouterr().out)
    assert list(schema["properties"]) == list(RunConfig.model_fields)
    assert schema["required"] == ["model", "train"], "data too, unless tasks have theirs"


def test_the_command_line_needs_no_torch() -> None:
    program = "import sys, megalm.cli.main, megalm.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0


def test_the_process_ends_with_the_code_and_one_line(run_file: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "megalm", "train", run_file, "layout.tpp=2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "megalm: unknown key layout.tpp; did you mean layout.tp?\n"
