"""Oracle: the bound and the cases that the benchmark's README states."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.generation.__main__ import CASES, LEAST_RATIO, measured
from benchmarks.generation.measure import Case, Shape, tokens_per_s

ROOT = Path(__file__).parents[2]


def test_a_trial_measures_keeps_and_shows_every_case(tmp_path: Path) -> None:
    output = tmp_path / "kept" / "generation.json"
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 50}
    command = [sys.executable, "-m", "benchmarks.generation", "--pairs=2", f"--shape={json.dumps(shape)}"]
    done = subprocess.run([*command, f"--output={output}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    kept = json.loads(output.read_text())
    assert [case["batch_size"] for case in kept["cases"]] == [case.batch_size for case in CASES] == [1, 8]
    assert len(done.stdout.splitlines()) == len(CASES) + 1
    for case in kept["cases"]:
        assert {name: len(speeds) for name, speeds in case["tokens_per_s"].items()} == {"megalm": 2, "transformers": 2}
        assert case["holds"] == (case["ratio"] >= LEAST_RATIO)
    assert done.returncode == int(not all(case["holds"] for case in kept["cases"]))


def test_a_slow_side_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"megalm": 79.0, "transformers": 100.0}
    monkeypatch.setattr("benchmarks.generation.__main__.tokens_per_s", lambda side, *_: speeds[side])
    sides = {name: name for name in speeds}
    assert not measured(CASES[0], Shape(), sides, 3)["holds"]  # type: ignore[arg-type]
    speeds["megalm"] = 81.0
    assert measured(CASES[0], Shape(), sides, 3)["holds"]  # type: ignore[arg-type]


def test_a_side_that_makes_other_tokens_is_refused() -> None:
    with pytest.raises(RuntimeError, match="a side made"):
        tokens_per_s(lambda prompts_bs, new_tokens: [[1]], Case(1, 4, 4), Shape(vocab_size=9))
