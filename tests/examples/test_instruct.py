"""Oracle: ln(vocabulary), the loss of a model that knows nothing; and the held-out loss of the run's beginning."""

import math
from pathlib import Path

from tests.examples.trained import RECORDS, TEN_STEPS, ends_of, header, prepared, trained


def test_it_learns(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", RECORDS, records="instruct")
    small = (*TEN_STEPS, "train.seq_length=128")
    rows = trained("instruct", tmp_path / "run", f"data.train.0.path={data}", small=small)
    assert header("instruct").count("--records instruct") == 1
    assert abs(rows[0]["loss"] - math.log(4096)) < 0.5
    first, last = ends_of(rows, "val_loss")
    assert last["val_loss"] < first["val_loss"] - 0.1
