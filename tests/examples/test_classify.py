"""Oracle: ln(labels), the loss of a model that knows nothing; and what the run's beginning said of held-out samples."""

import math
from pathlib import Path

from tests.examples.trained import RECORDS, TEN_STEPS, ends_of, header, prepared, trained


def test_it_learns(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", RECORDS, records="labelled")
    small = (*TEN_STEPS, "train.seq_length=128")
    rows = trained("classify", tmp_path / "run", f"data.train.0.path={data}", small=small)
    assert header("classify").count("--records labelled") == 1
    assert abs(rows[0]["loss"] - math.log(48)) < 0.7
    first, last = ends_of(rows, "val_loss", "val_accuracy", "val_f1")
    assert last["val_loss"] < first["val_loss"] - 0.05
    assert last["val_accuracy"] >= first["val_accuracy"]
    assert 0 <= last["val_f1"] <= 1
