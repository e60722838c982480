"""Oracle: what a model that knows nothing loses; and the held-out loss of the run's beginning."""

import math
from pathlib import Path

from tests.examples.trained import SMALL, ends_of, header, prepared, trained

VOCAB_SIZE = 2048


def test_it_learns(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", vocab_size=VOCAB_SIZE, special_tokens="bert")
    small = (*SMALL, "train.global_batch_size=16", "train.micro_batch_size=8")
    rows = trained("bert", tmp_path / "run", f"data.train.0.path={data}", small=small)
    assert "--special-tokens bert" in header("bert")
    assert abs(rows[0]["loss"] - math.log(VOCAB_SIZE) - math.log(2)) < 0.8
    first, last = ends_of(rows, "val_loss")
    assert last["val_loss"] < first["val_loss"] - 0.1
