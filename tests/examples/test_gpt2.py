"""Oracle: ln(vocabulary), the loss of a model that knows nothing; and the held-out loss of the run's beginning.

GPT-2's example and those of its relatives, which differ in family and layout.
"""

import math
from pathlib import Path

import pytest

from tests.examples.trained import ends_of, header, prepared, trained

VOCAB_SIZE = 4096


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data") / "text")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_it_learns(data: Path, tmp_path: Path, family: str) -> None:
    rows = trained(family, tmp_path, f"data.train.0.path={data}")
    made = f"megalm data prepare python-stdlib --output data/python-stdlib --vocab-size {VOCAB_SIZE}`"
    assert made in header(family)
    assert rows[0]["loss"] == pytest.approx(math.log(VOCAB_SIZE), abs=0.5)
    first, last = ends_of(rows, "val_loss")
    assert last["val_loss"] < first["val_loss"] - 0.1
