"""Oracle: torch's own V schedules, priced on the same clock, and what the papers say of time and memory."""

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megalm.parallel.pipeline.action import Action
from megalm.parallel.pipeline.clock import StageCost, Timetable, time_program
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.v_schedules import dualpipe_v, zb_v
from tests.parallel.pipeline import torch_orders
from tests.parallel.pipeline.programs import patient, printed, words

EVEN = StageCost(1, 1, 1)
COSTS = [EVEN, StageCost(1, 1, 1, transfer=Fraction(1, 5)), StageCost(2, 3, 2), StageCost(3, 2, 4, transfer=1)]


def priced(program: Program, cost: StageCost) -> Timetable:
    return time_program(program, [cost] * program.num_stages)


def torchs(name: str, num_ranks: int, num_microbatches: int) -> Program:
    orders = torch_orders.in_v(name, num_ranks, num_microbatches)
    return Program.of([Action.parse(word) for word in words] for words in orders)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
def test_no_more_idle_than_torchs(num_ranks: int, cost: StageCost) -> None:
    for num_microbatches in (1, 2, num_ranks, 2 * num_ranks, 2 * num_ranks + 1, 4 * num_ranks):
        numbers = (num_ranks, num_microbatches)
        ours, theirs = zb_v(*numbers), torchs("ScheduleZBVZeroBubble", *numbers)
        assert priced(ours, cost).bubble <= priced(theirs, cost).bubble, numbers
        if num_microbatches >= 2 * num_ranks:
            ours, theirs = dualpipe_v(*numbers), torchs("ScheduleDualPipeV", *numbers)
            assert priced(ours, cost).bubble <= priced(theirs, cost).bubble, numbers


@pytest.mark.parametrize("num_ranks", range(1, 9))
def test_the_orders_are_torchs(num_ranks: int) -> None:
    for num_microbatches in range(1, 25):
        numbers = (num_ranks, num_microbatches)
        assert zb_v(*numbers) == torchs("ScheduleZBVZeroBubble", *numbers), numbers
        if num_microbatches >= 2 * num_ranks:
            assert dualpipe_v(*numbers) == torchs("ScheduleDualPipeV", *numbers), numbers


@patient
@given(st.integers(1, 6), st.integers(0, 11))
def test_fewer_micro_batches_are_the_first_of_the_smallest_program(num_ranks: int, num_microbatches: int) -> None:
    for schedule, smallest in ((zb_v, 2 * num_ranks - 1), (dualpipe_v, 2 * num_ranks)):
        if num_microbatches <= smallest:
            whole = words(schedule(num_ranks, smallest))
            first = [[word for word in line if int(word[2:].lstrip("FBIW")) < num_microbatches] for line in whole]
            assert words(schedule(num_ranks, num_microbatches)) == first


@patient
@given(st.integers(1, 9), st.integers(0, 12))
def test_zb_v_waits_only_at_its_ends(num_ranks: int, more: int) -> None:
    num_microbatches = 2 * num_ranks - 1 + more
    timetable = priced(zb_v(num_ranks, num_microbatches), EVEN)
    assert timetable.bubble == Fraction(num_ranks - 1, 6 * num_microbatches + num_ranks - 1)


@patient
@given(st.integers(1, 9), st.integers(1, 30))
def test_what_is_kept(num_ranks: int, num_microbatches: int) -> None:
    assert max(priced(zb_v(num_ranks, num_microbatches), EVEN).peak) <= 2 * num_ranks
    assert max(priced(dualpipe_v(num_ranks, num_microbatches), EVEN).peak) <= 2 * num_ranks + 1


def test_placement() -> None:
    assert zb_v(3, 4).rank_of_stage == dualpipe_v(3, 4).rank_of_stage == {0: 0, 1: 1, 2: 2, 3: 2, 4: 1, 5: 0}


def test_one_micro_batch_by_hand() -> None:
    assert printed(zb_v(2, 1)) == ["0F0 3F0 3I0 3W0 0I0 0W0", "1F0 2F0 2I0 2W0 1I0 1W0"]
    assert printed(dualpipe_v(2, 1)) == ["0F0 3F0 3I0 3W0 0B0", "1F0 2F0 2B0 1B0"]


@pytest.mark.parametrize("schedule", [zb_v, dualpipe_v])
def test_it_is_made_for_two_stages_a_rank(schedule: Callable[[int, int, int], Program]) -> None:
    with pytest.raises(ValueError, match="is made for 2 stages a rank, not 3"):
        schedule(2, 4, 3)
