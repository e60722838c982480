"""Oracle: the bounds and the numbers of actions that the benchmark's README states."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.lowering.__main__ import result, summary
from benchmarks.lowering.measure import CASES, Measurement

ROOT = Path(__file__).parents[2]


def test_a_trial_measures_keeps_and_shows_every_case(tmp_path: Path) -> None:
    output = tmp_path / "kept" / "lowering.json"
    command = [sys.executable, "-m", "benchmarks.lowering", "--microbatches=2", "--repeat=2", f"--output={output}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    kept = json.loads(output.read_text())
    assert kept["command"].startswith("python -m benchmarks.lowering --microbatches=2")
    assert len(done.stdout.splitlines()) == len(kept["cases"]) + 1 == len(CASES) + 1
    for case in kept["cases"]:
        stages = case["num_ranks"] * case["stages_per_rank"]
        sends_and_receives = 4 * 2 * (stages - 1)
        # forwards and backwards, the last of which are cut into blocks, and their reductions
        assert case["num_actions"] == 2 * 2 * stages - stages + 2 * 6 * stages + sends_and_receives
        assert len(case["measurements"]) == 2
        for each in case["measurements"]:
            parts = each["schedule"] + each["reductions"] + each["communication"] + each["check"]
            assert parts == pytest.approx(each["seconds"])
            assert each["peak_mib"] > 10


def test_the_slowest_and_the_largest_are_judged() -> None:
    bounds = replace(CASES[0], most_seconds=5, most_mib=100)
    fine = Measurement(1, 1, 1, 1, 1, seconds=4, peak_mib=99)
    for other, told in [
        (fine, "holds"),
        (replace(fine, seconds=6), "FAILS"),
        (replace(fine, peak_mib=101), "FAILS"),
    ]:
        assert result(bounds, [fine, other, fine])["holds"] == (told == "holds")
        assert summary(bounds, result(bounds, [fine, other, fine])).endswith(told)


def test_the_readme_states_the_bounds() -> None:
    readme = (ROOT / "benchmarks" / "lowering" / "README.md").read_text()
    bounds = [(case.num_ranks, case.stages_per_rank, case.num_microbatches, case.most_seconds) for case in CASES]
    assert bounds == [(16, 4, 128, 5), (64, 2, 512, 60)]
    for number in ("16 ranks", "4 stages", "128 micro", "5 seconds", "64 ranks", "2 stages", "512 micro", "60 seconds"):
        assert number in readme
    assert "2 GiB" in readme
    assert {case.most_mib for case in CASES} == {2048}
