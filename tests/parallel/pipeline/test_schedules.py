"""Oracle: the orders of torch.distributed.pipelining, the papers' closed forms, and the tables of the docstrings."""

import re
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import own_schedule
from megalm.parallel.pipeline import schedules, v_schedules
from megalm.parallel.pipeline.clock import StageCost, time_program
from megalm.parallel.pipeline.program import Program
from tests.parallel.pipeline import brute_force, torch_orders
from tests.parallel.pipeline.programs import patient, printed, words

FORWARD, BACKWARD = Fraction(3, 7), Fraction(11, 5)
"""Costs that share nothing, so that a closed form holds by no accident."""
COST = StageCost(FORWARD, BACKWARD / 3, BACKWARD * 2 / 3)
EVEN = StageCost(1, 1, 1)
TABLES = [
    (schedules.gpipe, (2, 3, 1)),
    (schedules.one_f_one_b, (2, 3, 1)),
    (schedules.interleaved, (2, 4, 2)),
    (schedules.zb_h1, (3, 4, 1)),
    (schedules.zb_h2, (3, 5, 1)),
    (v_schedules.zb_v, (2, 3, 2)),
    (v_schedules.dualpipe_v, (2, 4, 2)),
    (own_schedule.waves, (2, 4, 1)),
]


@pytest.mark.parametrize(("schedule", "numbers"), TABLES)
def test_the_table_of_the_docstring_is_what_is_done(
    schedule: Callable[[int, int, int], Program], numbers: tuple[int, int, int]
) -> None:
    drawn = re.findall(r"rank \d .*", schedule.__doc__ or "")
    assert drawn == brute_force.table(words(schedule(*numbers))).splitlines()


@pytest.mark.parametrize("num_ranks", range(2, 9))
def test_gpipe_and_1f1b_are_what_torch_runs(num_ranks: int) -> None:
    for num_microbatches in range(1, 25):
        numbers = (num_ranks, num_microbatches)
        assert words(schedules.gpipe(*numbers)) == torch_orders.gpipe(*numbers), numbers
        assert words(schedules.one_f_one_b(*numbers)) == torch_orders.one_f_one_b(*numbers), numbers


@pytest.mark.parametrize("num_ranks", range(2, 9))
def test_interleaved_is_torchs_where_torch_has_it(num_ranks: int) -> None:
    defined = [m for m in range(1, 25) if torch_orders.interleaved_is_defined(num_ranks, m)]
    assert len(defined) >= 13
    for num_microbatches in defined:
        for stages_per_rank in range(1, 5):
            numbers = (num_ranks, num_microbatches, stages_per_rank)
            assert words(schedules.interleaved(*numbers)) == torch_orders.interleaved(*numbers), numbers


def test_rounds_elsewhere_are_as_even_as_possible_the_longer_ones_first() -> None:
    forwards = [word for word in words(schedules.interleaved(2, 5, 2))[0] if "F" in word]
    assert " ".join(forwards) == "0F0 0F1 0F2 2F0 2F1 2F2 0F3 0F4 2F3 2F4"


def test_one_rank_goes_back_after_each_forward() -> None:
    assert printed(schedules.one_f_one_b(1, 3)) == ["0F0 0B0 0F1 0B1 0F2 0B2"]
    assert printed(schedules.one_f_one_b(2, 0)) == ["", ""]


@patient
@given(st.integers(1, 9), st.integers(1, 30))
def test_gpipe_and_1f1b_are_idle_as_long_as_their_papers_say(num_ranks: int, num_microbatches: int) -> None:
    expected = Fraction(num_ranks - 1, num_microbatches + num_ranks - 1)
    for schedule in (schedules.gpipe, schedules.one_f_one_b):
        timetable = time_program(schedule(num_ranks, num_microbatches), [COST] * num_ranks)
        assert timetable.bubble == expected
        assert timetable.makespan == (num_microbatches + num_ranks - 1) * (FORWARD + BACKWARD)


@patient
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))
def test_interleaved_is_idle_as_long_as_its_paper_says(num_ranks: int, rounds: int, stages_per_rank: int) -> None:
    program = schedules.interleaved(num_ranks, rounds * num_ranks, stages_per_rank)
    timetable = time_program(program, [COST] * num_ranks * stages_per_rank)
    assert timetable.bubble == Fraction(num_ranks - 1, stages_per_rank * rounds * num_ranks + num_ranks - 1)


@patient
@given(st.integers(1, 9), st.integers(0, 20))
def test_zb_h1_is_idle_a_third_as_long(num_ranks: int, more: int) -> None:
    num_microbatches = num_ranks + more
    timetable = time_program(schedules.zb_h1(num_ranks, num_microbatches), [EVEN] * num_ranks)
    assert timetable.bubble == Fraction(num_ranks - 1, 3 * num_microbatches + num_ranks - 1)


@patient
@given(st.integers(1, 9), st.integers(0, 20))
def test_zb_h2_never_waits_between_its_first_action_and_its_last(num_ranks: int, more: int) -> None:
    num_microbatches = 2 * num_ranks - 1 + more
    timetable = time_program(schedules.zb_h2(num_ranks, num_microbatches), [EVEN] * num_ranks)
    for rank in range(num_ranks):
        of_rank = [span for span in timetable.spans if span.rank == rank]
        assert (of_rank[0].start, of_rank[-1].end) == (rank, rank + 3 * num_microbatches)


@patient
@given(st.integers(1, 9), st.integers(1, 30))
def test_what_is_kept_is_what_the_papers_say(num_ranks: int, num_microbatches: int) -> None:
    def peak(schedule: Callable[[int, int], Program]) -> tuple[object, ...]:
        return time_program(schedule(num_ranks, num_microbatches), [EVEN] * num_ranks).peak

    assert peak(schedules.gpipe) == (num_microbatches,) * num_ranks
    assert peak(schedules.one_f_one_b) == tuple(min(num_microbatches, num_ranks - r) for r in range(num_ranks))
    assert peak(schedules.zb_h1) == (min(num_microbatches, num_ranks),) * num_ranks
    assert peak(schedules.zb_h2) == (min(num_microbatches, 2 * num_ranks - 1),) * num_ranks


@pytest.mark.parametrize("schedule", [schedules.gpipe, schedules.one_f_one_b, schedules.zb_h1, schedules.zb_h2])
def test_another_number_of_stages_is_no_program(schedule: Callable[[int, int, int], Program]) -> None:
    with pytest.raises(ValueError, match="is made for 1 stages a rank, not 2"):
        schedule(2, 4, 2)
