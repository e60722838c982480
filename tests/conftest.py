"""Fixtures of all tests."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from tests.ranks import RankPool

# The background job of a shell ignores Ctrl-C, and so would the commands that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two processes of two threads on two cores wait for one another most of the time.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Real gloo ranks, started when first used: ``ranks.run(4, function, *arguments)`` returns the results by rank."""
    pool = RankPool()
    yield pool
    pool.close()
