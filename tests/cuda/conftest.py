"""Fixtures of the tests that need a GPU."""

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by deterministic products, before the first


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Let kernels add up in the same order in every run."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
