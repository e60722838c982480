"""Oracle: the bound and the number of elements that the benchmark's README states."""

import re
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.zero.update import HIDDEN, LAYERS, MOST, optimizer
from megalm.optim.adamw import AdamW
from megalm.optim.config import OptimizerConfig

ROOT = Path(__file__).parents[3]


def test_a_trial_shows_all_and_judges_them() -> None:
    command = [sys.executable, "-m", "benchmarks.zero.update", "--hidden=32", "--layers=2", "--repeat=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    first, *others = done.stdout.splitlines()
    shown = re.fullmatch(r"([\d,]+) elements: adamw [\d.]+ ms", first)
    assert shown is not None
    assert int(shown[1].replace(",", "")) == 2 * (12 * 32**2 + 13 * 32)
    verdicts = []
    for line, (name, most) in zip(others, MOST.items(), strict=True):
        told = re.fullmatch(rf"{name} [\d.]+ ms, ([\d.]+) times \(at most {most:g}\): (holds|FAILS)", line)
        assert told is not None
        assert (float(told[1]) <= most) == (told[2] == "holds")
        verdicts.append(told[2])
    assert done.returncode == (1 if "FAILS" in verdicts else 0)


def test_the_readme_states_the_bound_and_the_size() -> None:
    readme = (ROOT / "benchmarks" / "zero" / "README.md").read_text()
    for most in MOST.values():
        assert f"at most {most:g} times" in readme
    assert "31.9\nmillion elements" in readme
    assert round(LAYERS * (12 * HIDDEN**2 + 13 * HIDDEN) / 1e6, 1) == 31.9
    (bucket,) = optimizer(AdamW(OptimizerConfig()), 64, 1).buckets
    assert bucket.owned_values.numel() == 12 * 64**2 + 13 * 64
    assert bucket.owned_gradients.dtype == torch.float32
