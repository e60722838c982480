"""What bad input comes to."""

from collections.abc import Sequence

import pytest

from megalm.cli.main import run


def assert_refused(capfd: pytest.CaptureFixture[str], words: Sequence[str], sentence: str) -> None:
    """See that a command ends with 2 and one line that says ``sentence``, and prints nothing else."""
    assert run([*words], {}) == 2, sentence
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert sentence in err, err
