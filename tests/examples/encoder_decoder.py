"""What the examples of encoder-decoders learn, of the same text with special tokens of their own."""

import math
from pathlib import Path

from tests.examples.trained import ends_of, header, prepared, trained


def assert_it_learns(folder: Path, family: str) -> None:
    """Train one, and hold its losses against what a model that knows nothing loses, and against its beginning's."""
    data = prepared(folder / "data", special_tokens=family)
    rows = trained(family, folder / "run", f"data.train.0.path={data}")
    assert f"--special-tokens {family}`" in header(family)
    assert math.log(4096) - 0.5 < rows[0]["loss"] < math.log(4096) + 2
    first, last = ends_of(rows, "val_loss")
    assert last["val_loss"] < first["val_loss"] - 0.1
