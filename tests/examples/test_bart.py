"""Oracle: the held-out loss of a model that knows nothing, about ln(vocabulary) or more, and that of the beginning."""

from pathlib import Path

from tests.examples.encoder_decoder import assert_it_learns


def test_it_learns(tmp_path: Path) -> None:
    assert_it_learns(tmp_path, "bart")
