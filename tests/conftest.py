"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest

from tests.ranks import RankPool


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Real gloo ranks, started when first used: ``ranks.run(4, function, *arguments)`` returns the results by rank."""
    pool = RankPool()
    yield pool
    pool.close()
