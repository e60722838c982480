"""Fixtures of all tests."""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.ranks import RankPool

# Two processes of two threads on two cores wait for one another most of the time.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Real gloo ranks, started when first used: ``ranks.run(4, function, *arguments)`` returns the results by rank."""
    pool = RankPool()
    yield pool
    pool.close()
