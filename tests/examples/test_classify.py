"""Oracle: ln(labels), the loss of a model that knows nothing; and what the run's beginning said of held-out samples."""

import math
from pathlib import Path

from tests.examples.test_instruct import SMALL, run


def test_it_learns(tmp_path: Path) -> None:
    rows = run(tmp_path, "classify", "labelled", *SMALL)
    assert abs(rows[0]["loss"] - math.log(48)) < 0.7
    held_out = [row for row in rows if "val_loss" in row]
    for name in ("val_loss", "val_accuracy", "val_f1"):
        print(f"{name} {held_out[0][name]:.4f} to {held_out[-1][name]:.4f}")
    assert held_out[-1]["val_loss"] < held_out[0]["val_loss"] - 0.05
    assert held_out[-1]["val_accuracy"] >= held_out[0]["val_accuracy"]
    assert 0 <= held_out[-1]["val_f1"] <= 1
