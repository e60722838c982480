"""Oracle: what Linux documents of a container's allowance, by hand; tests/cluster asks a real container."""

import os
from pathlib import Path

import pytest

from megalm.launcher.threads import threads_per_rank, usable_cores


@pytest.fixture(autouse=True)
def _six_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 6),
        ({"cpu.max": "max 100000\n"}, 6),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "900000 100000\n"}, 6),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "unreadable\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_a_container_uses_no_more_cores_than_it_is_allowed(files: dict[str, str], cores: int, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert usable_cores(tmp_path) == cores


def test_ranks_share_the_cores() -> None:
    most = usable_cores()
    assert [threads_per_rank(ranks) for ranks in (1, most, 50)] == [most, 1, 1]
