"""Oracle: what a model that knows nothing loses; and the held-out losses of the run's beginning."""

import math
from pathlib import Path

from tests.examples.trained import FULL, TEN_STEPS, ends_of, header, prepared, trained

VOCAB_SIZE = 300


def test_it_learns(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", vocab_size=VOCAB_SIZE, special_tokens="bert")
    rows = trained("electra", tmp_path / "run", f"data.train.0.path={data}", small=TEN_STEPS)
    assert f"--special-tokens bert --output data/electra --vocab-size {VOCAB_SIZE}`" in header("electra")
    assert abs(rows[0]["loss_mlm"] - math.log(VOCAB_SIZE)) < 0.8
    assert abs(rows[0]["loss_rtd"] - math.log(2)) < 0.4
    assert all(math.isclose(row["loss"], row["loss_mlm"] + 50 * row["loss_rtd"], rel_tol=1e-5) for row in rows)
    first, last = ends_of(rows, "val_loss", "val_loss_mlm", "val_loss_rtd", "val_accuracy", "val_f1")
    assert last["val_loss_mlm"] < first["val_loss_mlm"] - 0.1
    assert last["val_loss"] < first["val_loss"] - 0.1
    assert 0.3 < last["val_loss_rtd"] < rows[0]["loss_rtd"] - 0.05  # there is something to spot, and not all at once
    if FULL:  # one that says "the text's" of all has an F1 below 0.5, and loses the entropy of the share
        assert last["val_f1"] > 0.55 > 0.5 > first["val_f1"]
        assert last["val_loss_rtd"] < first["val_loss_rtd"] - 0.05
        assert last["val_loss"] < first["val_loss"] - 3.0
