"""Oracle: the notations of Slurm's manual: sbatch's --time and --array."""

import math

import pytest

from megalm.errors import UserError
from megalm.launcher.slurm.words import seconds_of, tasks_of


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("1:30:15", 5415),
        ("2-12", 216_000),
        ("2-12:30", 217_800),
        ("2-12:30:15", 217_815),
        ("24:00:00", 86_400),
        ("UNLIMITED", math.inf),
        ("infinite", math.inf),
    ],
)
def test_a_time_limit_in_seconds(time: str, seconds: float) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    "time", ["", "0", "0:00", "1h", "1:2:3:4", "-5", "1-", "2-1:2:3:4", "1.5", "٣", "1\n", "1 day"]
)
def test_what_is_no_time_is_refused(time: str) -> None:
    with pytest.raises(UserError, match="--time"):
        seconds_of(time)


@pytest.mark.parametrize(
    ("array", "tasks"),
    [("3", [3]), ("0-3", [0, 1, 2, 3]), ("1,5,9%2", [1, 5, 9]), ("0-6:2,9%4", [0, 2, 4, 6, 9]), ("4-5,1", [1, 4, 5])],
)
def test_the_tasks_of_an_array(array: str, tasks: list[int]) -> None:
    assert tasks_of(array) == tasks


@pytest.mark.parametrize("array", ["", "a", "0-", "3-1", "0-3;x", "0-99999999", "%4", "0-3\n", "-1"])
def test_what_is_no_array_is_refused(array: str) -> None:
    with pytest.raises(UserError, match="--array"):
        tasks_of(array)
