"""Oracle: the bounds that the benchmark's README states, and numbers of memory that a program knows by itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.sparse_attention.__main__ import MOST_MEMORY, MOST_TIME, result, summary
from benchmarks.sparse_attention.measure import LENGTHS, PATTERNS, Measurement, core_of, inputs_of, once

ROOT = Path(__file__).parents[2]


def test_a_trial_measures_keeps_and_shows_a_case(tmp_path: Path) -> None:
    output = tmp_path / "kept" / "sparse.json"
    command = [sys.executable, "-m", "benchmarks.sparse_attention", "--lengths", "256", "512", "--repeat=2"]
    done = subprocess.run([*command, f"--output={output}"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    kept = json.loads(output.read_text())
    assert done.returncode == (0 if all(each["holds"] for each in kept["patterns"]) else 1)
    assert [each["pattern"] for each in kept["patterns"]] == list(PATTERNS)
    assert len(done.stdout.splitlines()) == 3 * len(PATTERNS) + 1
    for each in kept["patterns"]:
        assert each["lengths"] == [256, 512]
        assert [len(one["seconds"]) for one in each["measurements"]] == [2, 2]
        assert all(0 < second < 10 for second in each["seconds"])


def test_the_last_doubling_is_judged() -> None:
    fine = [Measurement([3.0, 1.0], 10), Measurement([9.0, 9.0], 90), Measurement([21.0, 24.0], 180)]
    assert summary(result("dilated", (1, 2, 4), fine))[-1] == "dilated: holds"
    for worse in (Measurement([22.0, 24.0], 180), Measurement([21.0], 199)):
        found = result("dilated", (1, 2, 4), [*fine[:2], worse])
        assert summary(found)[-1] == "dilated: FAILS"
        assert result("dense", (1, 2, 4), [*fine[:2], worse])["holds"]
    assert found["time_ratios"] == pytest.approx([9.0, 21 / 9])


def test_cores_are_alike_but_for_their_pattern() -> None:
    torch.manual_seed(1)
    inputs = inputs_of(300)
    rows = {pattern: core_of(pattern)(*inputs) for pattern in PATTERNS}
    assert {tuple(out.shape) for out in rows.values()} == {(1, 300, 2, 64)}
    assert torch.allclose(rows["sliding_window"][:, :256], rows["dense"][:, :256], atol=1e-5)
    assert not torch.allclose(rows["sliding_window"][:, 256:], rows["dense"][:, 256:], atol=1e-3)
    assert once(core_of("dense"), inputs) > 0


def test_the_readme_states_the_bounds() -> None:
    readme = (ROOT / "benchmarks" / "sparse_attention" / "README.md").read_text()
    assert f"{MOST_TIME} times as much processor time and at most {MOST_MEMORY} times as much memory" in readme
    assert f"from {LENGTHS[-2]:,} to {LENGTHS[-1]:,} tokens" in readme
