"""Oracle: the rank that was made slow, and seconds that are written down by hand."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megalm.training.stragglers import EVERY, Spent, slowest, summary
from tests.training.test_kills import ROOT
from tests.verify.runs import GPT2, run_file


def spent(rank: int, stage: int = 0, **seconds: float) -> Spent:
    return Spent(rank, "h1", stage, {kind.lstrip("k"): each for kind, each in seconds.items()})


@pytest.mark.parametrize(
    ("ranks", "told"),
    [
        (
            [spent(0, k0F=2.0, k0B=4.0), spent(1, k0F=5.6, k0B=4.0)],
            "rank 1 (h1) is slowest: 1.6 times the median, mostly in 0F",
        ),
        (
            [spent(0, k0F=2.0, waiting=9.0), spent(1, k0F=2.2)],
            "rank 1 (h1) is slowest: 1.1 times the median, mostly in 0F",
        ),
        (
            [spent(0, 0, k0F=1.0), spent(1, 0, k0F=1.1), spent(2, 1, k1F=7.0), spent(3, 1, k1F=7.5)],
            "rank 3 (h1) is slowest: 1.1 times the median, mostly in 1F",
        ),
        (
            [spent(0, 0, k0F=3.0), spent(1, 1, k1F=3.1), spent(2, 2, k2F=9.3)],
            "rank 2 (h1) is slowest: 3 times the median, mostly in 2F",
        ),
        ([spent(0), spent(1)], "None"),
    ],
)
def test_the_slowest_of_those_that_do_the_same(ranks: list[Spent], told: str) -> None:
    assert str(slowest(ranks)) == told


def test_a_rank_made_slow_is_found_among_many() -> None:
    chance = random.Random(3)
    for _ in range(100):
        ranks = [
            spent(rank, rank // 8, k1F=chance.uniform(5, 6), k1B=chance.uniform(9, 11), update=chance.uniform(1, 2))
            for rank in range(32)
        ]
        sick, kind = chance.randrange(32), chance.choice(["1F", "1B", "update"])
        seconds = {**ranks[sick].seconds, kind: ranks[sick].seconds[kind] + 9}
        ranks[sick] = ranks[sick]._replace(seconds=seconds)
        found = slowest(ranks)
        assert found is not None
        assert (found.spent.rank, found.mostly) == (sick, kind)


def test_a_summary_names_only_a_rank_that_is_slower_than_its_like() -> None:
    shares = "the ranks' time in steps: 80% computing, 15% waiting for others, 5% reading; "
    usual = Spent(0, "h1", 0, {"0F": 7.9, "waiting": 1.6, "reading data": 0.5})
    alike = Spent(1, "h1", 0, {"0F": 8.1, "waiting": 1.4, "reading data": 0.5})
    assert summary([usual, alike]) == shares + "no rank is much slower than its like"
    slow = Spent(1, "h1", 0, {"0F": 10.0, "waiting": 0.0, "reading data": 0.5})
    told = summary([usual, slow])
    assert told is not None
    assert told.endswith("; rank 1 (h1) is slowest: 1.2 times the median, mostly in 0F")
    assert summary([]) is None


@pytest.mark.parametrize(
    ("sections", "mostly"),
    [
        ({"data": {"train": [{"path": "tests.launcher.faulty:slow"}]}}, "reading data"),
        ({"model": {"family": "tests.launcher.faulty:slow_to_compute"}}, "0F"),
    ],
    ids=["reads", "computes"],
)
def test_a_run_tells_of_the_rank_that_is_slow_and_sums_up_at_its_end(
    tmp_path: Path, sections: dict[str, Any], mostly: str
) -> None:
    config = run_file(
        GPT2,
        layout={"dp": 2},
        **sections,
        train={"precision": "fp32", "steps": EVERY + 1, "eval_every": 0, "global_batch_size": 4, "micro_batch_size": 2},
        checkpoint={"every": 0},
    )
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "megalm", "train", str(tmp_path / "run.yaml"), f"run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    (told,) = [line for line in lines if "is slowest" in line and "the ranks' time" not in line]
    assert told.startswith("rank 1 (")
    assert f"times the median, mostly in {mostly} " in told
    assert told.endswith(f"(steps 1 to {EVERY})")
    (summary,) = [line for line in lines if line.startswith("the ranks' time in steps: ")]
    assert "waiting for others" in summary
    assert "; rank 1 (" in summary
    assert not (tmp_path / "run" / "ranks").exists()
    assert not (tmp_path / "run" / "verdict.txt").exists()
