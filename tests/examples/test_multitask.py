"""Oracle: what models that know nothing lose: ln(vocabulary) and ln(labels); and what the run's beginning found."""

import math
from pathlib import Path

from tests.examples.trained import RECORDS, ends_of, header, prepared, trained


def test_both_tasks_are_learned(tmp_path: Path) -> None:
    text = prepared(tmp_path / "text", RECORDS)
    labelled = prepared(tmp_path / "labelled", RECORDS, tokenizer=text / "tokenizer.json", records="labelled")
    data = (f"objective.tasks.0.data.train.0.path={text}", f"objective.tasks.1.data.train.0.path={labelled}")
    rows = trained("multitask", tmp_path / "run", *data)
    assert header("multitask").count("--records labelled") == 1
    assert header("multitask").count("/tokenizer.json`") == 1
    assert abs(rows[0]["task/text/loss"] - math.log(4096)) < 0.5
    assert abs(rows[0]["task/package/loss"] - math.log(48)) < 0.7
    names = ("text/val_loss", "package/val_loss", "package/val_accuracy", "package/val_f1")
    first, last = ends_of(rows, *(f"task/{name}" for name in names))
    assert last["task/text/val_loss"] < first["task/text/val_loss"] - 0.1
    assert last["task/package/val_loss"] < first["task/package/val_loss"] - 0.05
    assert last["task/package/val_accuracy"] >= first["task/package/val_accuracy"]
