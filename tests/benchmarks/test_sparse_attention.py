"""Oracle: the bounds that the benchmark's README states, and numbers of memory that a program knows by itself."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.sparse_attention import __main__ as command
from benchmarks.sparse_attention.__main__ import MOST_MEMORY, MOST_TIME, in_a_fresh_process, result, summary
from benchmarks.sparse_attention.measure import LENGTHS, PATTERNS, Measurement, core_of, inputs_of, once

ROOT = Path(__file__).parents[2]


def test_a_trial_measures_keeps_and_shows_a_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One case in a process of its own, and the same numbers for all."""
    measured = in_a_fresh_process("dilated", 256, 2)
    assert len(measured.seconds) == 2
    assert all(0 < second < 10 for second in measured.seconds)
    monkeypatch.setattr(command, "in_a_fresh_process", lambda *_: measured)
    output = tmp_path / "kept" / "sparse.json"
    monkeypatch.setattr("sys.argv", ["sparse", "--lengths", "128", "256", "512", f"--output={output}"])
    assert command.main() == 0
    kept = json.loads(output.read_text())
    assert [each["pattern"] for each in kept["patterns"]] == list(PATTERNS)
    assert len(capsys.readouterr().out.splitlines()) == 4 * len(PATTERNS) + 1
    for each in kept["patterns"]:
        assert (each["lengths"], each["seconds"]) == ([128, 256, 512], [min(measured.seconds)] * 3)


def test_the_last_two_doublings_are_judged() -> None:
    lengths = (1, 2, 4, 8)
    fine = [Measurement([3.0, 1.0], 10), Measurement([2.0, 9.0], 40), Measurement([7.5], 60), Measurement([9.9], 160)]
    assert summary(result("dilated", lengths, fine))[-1] == "dilated: holds"
    for worse in (Measurement([10.1, 24.0], 160), Measurement([7.5], 161)):
        found = result("dilated", lengths, [*fine[:3], worse])
        assert summary(found)[-1] == "dilated: FAILS"
        assert result("dense", lengths, [*fine[:3], worse])["holds"]
    assert found["time_ratios"] == pytest.approx([2.0, 3.75, 1.0])


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
    assert f"from {LENGTHS[-3]:,} to {LENGTHS[-1]:,} tokens" in readme
