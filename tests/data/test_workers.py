"""Oracle: the clock, and files that the jobs write."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from megalm.data.workers import Workers
from megalm.errors import UserError

LONG = 60.0


@dataclass(frozen=True)
class Nap:
    """Sleep, and write that it is done; or fail."""

    target: Path
    seconds: float = 0.0
    fails: bool = False

    def run(self) -> None:
        time.sleep(self.seconds)
        if self.fails:
            raise UserError(f"{self.target.name} failed")
        self.target.write_text("done")


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_not_done_is_done_in_order(tmp_path: Path, workers: int) -> None:
    jobs = [Nap(tmp_path / str(number), seconds=0.3 if number == 1 else 0.0) for number in range(6)]
    jobs[2].target.write_text("before")
    with Workers(workers) as pool:
        assert list(pool.run(jobs)) == [job for job in jobs if job is not jobs[2]]
        assert list(pool.run(jobs)) == []
    assert [job.target.read_text() for job in jobs] == ["done", "done", "before", "done", "done", "done"]


def test_the_first_failure_ends_the_others_at_once(tmp_path: Path) -> None:
    begin = time.monotonic()
    jobs = [Nap(tmp_path / "a", fails=True), Nap(tmp_path / "b", fails=True), Nap(tmp_path / "c", LONG)]
    with pytest.raises(UserError, match="a failed"), Workers(2) as pool:
        list(pool.run(jobs))
    assert time.monotonic() - begin < LONG / 2
