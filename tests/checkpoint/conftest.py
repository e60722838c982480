"""What all tests of checkpoints share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def a_disk_that_answers_at_once() -> Iterator[None]:
    """Sync nothing in this process: no test cuts the power, and a slow disk would make hundreds of saves slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield
