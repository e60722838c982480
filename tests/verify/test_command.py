"""Oracle: the exit codes of the contract, and the tensor that a planted fault spoils first."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megalm.errors import UserError
from megalm.layout import Layout
from megalm.verify.command import show, verify
from megalm.verify.compare import Finding
from tests.verify.runs import LLAMA, run_file

ROOT = Path(__file__).parents[2]
FAULTS = {
    "shared key heads not summed": "model.layers.0.self_attn.k_proj.weight",
    "one bucket never reduced": "model.layers.0.",
    "row-parallel sum missing": "model.",
    "softmax over the local vocabulary": "model.",
}
if not os.environ.get("MEGALM_TEST_FULL"):
    FAULTS = dict(list(FAULTS.items())[:1])


def run_verify(path: Path, *words: str, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "200"}
    if fault is not None:
        env |= {"MEGALM_TEST_FAULT": fault, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent / 'plant'}"}
    command = [sys.executable, "-m", "megalm", "verify", str(path), *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    config = run_file(LLAMA, layout={"dp": 2, "tp": 2}, train={"micro_batch_size": 4})
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    return tmp_path / "run.yaml"


def test_a_right_layout_exits_0(path: Path) -> None:
    done = run_verify(path, "--steps", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the layout does not change the result" in done.stdout
    assert "step 2 value" in done.stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_exits_1_and_names_the_tensor(path: Path, fault: str) -> None:
    done = run_verify(path, "--steps", "1", fault=fault)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the layout changes the result" in done.stdout
    assert FAULTS[fault] in done.stdout
    assert "ParamSpec(" in done.stdout


def test_recomputation_is_judged_by_one_process_that_keeps_everything(path: Path) -> None:
    words = ("--steps", "1", "layout.dp=1", "layout.tp=1", "recompute.mode=full")
    done = run_verify(path, *words, fault="recomputed dropout drawn anew")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the layout changes the result: first in step 1 gradient norm" in done.stdout


def test_other_engines_are_not_judged() -> None:
    other: dict[str, Mapping[str, Any]] = {
        "zero": {"backend": "fsdp2", "stage": 3},
        "layout": {"dp": 2},
        "train": {"precision": "fp32"},
    }
    with pytest.raises(UserError, match=r"verify judges our own engine, and zero\.backend is fsdp2"):
        verify(run_file(LLAMA, **other))


def test_the_first_disagreement_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding("step 1 loss", 0.0, True),
        Finding("step 1 gradient", 1.0, False, "x.weight disagrees on rank 1 at [0, 2]"),
    ]
    show(findings, Layout(tp=2))
    told = capsys.readouterr().out
    assert "first in step 1 gradient" in told
    assert "x.weight disagrees on rank 1 at [0, 2]" in told
