"""Oracle: timetables worked out by hand, exactly; the schedules' closed forms are in test_schedules."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megalm.parallel.pipeline.action import Kind
from megalm.parallel.pipeline.clock import Keeps, StageCost, Timetable, peak_kept, time_program
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedules import gpipe, one_f_one_b
from tests.parallel.pipeline.programs import lowered, patient, read, schedule_programs


def shown(timetable: Timetable) -> list[str]:
    return [f"{span.rank}:{span.action} {span.start}-{span.end}" for span in timetable.spans]


def test_two_ranks_by_hand() -> None:
    timetable = time_program(one_f_one_b(2, 1), [StageCost(1, 2, 3), StageCost(4, 5, 6)])
    assert shown(timetable) == ["0:0F0 0-1", "0:0B0 16-21", "1:1F0 1-5", "1:1B0 5-16"]
    assert timetable.makespan == 21
    assert timetable.bubble == 1 - Fraction(21, 42)
    assert timetable.peak == (1, 1)


def test_a_transfer_delays_who_uses_it_and_nobody_else() -> None:
    """Rank 0 goes on at once; rank 1 waits 10 for the output, and rank 0 waits 100 for the gradient of its input."""
    costs = [StageCost(1, 1, 1, transfer=10), StageCost(1, 1, 1, transfer=100)]
    expected = ["0:0F0 0-1", "0:0F1 1-2", "0:0B0 114-116", "0:0B1 117-119"]
    expected += ["1:1F0 11-12", "1:1B0 12-14", "1:1F1 14-15", "1:1B1 15-17"]
    assert shown(time_program(one_f_one_b(2, 2), costs)) == expected
    assert shown(time_program(with_communication(one_f_one_b(2, 2)), costs)) == expected


def test_a_receive_that_stands_early_keeps_nobody_waiting() -> None:
    program = read(
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0RECV_B1 0B0 0B1", "1RECV_F0 1RECV_F1 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1"
    )
    costs = [StageCost(1, 1, 1), StageCost(1, 1, 1)]
    assert time_program(program, costs).spans == time_program(with_communication(one_f_one_b(2, 2)), costs).spans


def test_halves_and_what_they_keep() -> None:
    timetable = time_program(read("0F0 0F1 0I0 0I1 0W1 0W0"), [StageCost(1, 2, 3, kept=8, kept_for_weight=5)])
    assert shown(timetable)[2:] == ["0:0I0 2-4", "0:0I1 4-6", "0:0W1 6-9", "0:0W0 9-12"]
    assert timetable.peak == (16,)
    growing = time_program(read("0F0 0F1 0I0 0I1 0W1 0W0"), [StageCost(1, 2, 3, kept=2, kept_for_weight=5)])
    assert growing.peak == (10,)


def test_micro_batches_may_keep_differently() -> None:
    """Micro-batch 2 is small: it comes when one other is in flight, and adds less than that one's half."""
    actions = read("0F0 0F1 0I0 0F2/0 0F2/1 0W0/1 0W0/0 0B1/1 0B1/0 0B2").ranks[0]
    kept = {0: Keeps(10, 7), 1: Keeps(10, 7), 2: Keeps(2, 1)}
    assert peak_kept(actions, lambda _, microbatch: kept[microbatch]) == 20
    kept[2] = Keeps(4, 1)
    assert peak_kept(actions, lambda _, microbatch: kept[microbatch]) == 7 + 10 + 4
    assert peak_kept(actions, lambda stage, microbatch: Keeps(stage, stage)) == 0


def test_what_leaves_is_there_until_the_next_leaves_or_its_own_backward() -> None:
    """Of stage 1 nothing leaves; micro-batch 0 of stage 0 has left when 1 leaves, which is called back at once."""
    kept = {0: Keeps(1, 0, 100), 1: Keeps(10, 0)}
    leaving = [0, 100, 100, 100, 0, 0, 0]
    stays = [0, 1, 11, 12, 11, 10, 0]
    actions = read("0F0 1F0 0F1 0B1 0B0 1B0").ranks[0]
    for number in range(len(actions) + 1):
        assert peak_kept(actions[:number], lambda stage, _: kept[stage]) == max(
            one + other for one, other in zip(stays[: number + 1], leaving, strict=False)
        )
    kept[0] = Keeps(1, 0, 0)
    assert peak_kept(actions, lambda stage, _: kept[stage]) == 12


def test_stages_of_a_rank_keep_together() -> None:
    costs = [StageCost(1, 1, 1, kept=Fraction(1, 3)), StageCost(1, 1, 1, kept=2)]
    assert time_program(read("0F0 1F0 1B0 0B0"), costs).peak == (Fraction(7, 3),)


def test_a_cut_backward_is_shared_evenly_and_exactly() -> None:
    timetable = time_program(with_reductions(one_f_one_b(1, 1), [3]), [StageCost(1, 1, 1)])
    assert [span.end for span in timetable.spans] == [1, Fraction(5, 3), Fraction(7, 3), 3]
    assert timetable.peak == (1,)
    earlier = read("0F0 0B0/1 0B0/0 0F1 0I1 0W1/1 0W1/0 0F2 0B2")
    assert time_program(earlier, [StageCost(1, 1, 1, kept=2, kept_for_weight=1)]).peak == (2,)


def test_a_rank_without_stages_is_idle_all_the_time() -> None:
    assert time_program(read("0F0 0B0", ""), [StageCost(1, 1, 1)]).bubble == Fraction(1, 2)
    assert time_program(read("", ""), []).bubble == time_program(read(""), []).makespan == 0


def test_seconds_may_be_floats() -> None:
    timetable = time_program(gpipe(2, 2), [StageCost(0.5, 0.25, 0.25)] * 2)
    assert timetable.makespan == 3.0
    assert timetable.bubble == pytest.approx(1 / 3)


def test_a_program_without_end_is_no_timetable() -> None:
    with pytest.raises(ValueError, match="wait for one another"):
        time_program(read("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"), [StageCost(1, 1, 1)] * 2)


rationals = st.fractions(0, 5, max_denominator=12)


@patient
@given(schedule_programs(ranks=5, microbatches=8), st.lists(rationals, min_size=4, max_size=4), st.integers(1, 3))
def test_lowering_changes_no_time(program: Program, seconds: Sequence[Fraction], blocks: int) -> None:
    costs = [StageCost(*seconds)] * program.num_stages
    plain, communicating = time_program(program, costs), time_program(with_communication(program), costs)
    assert communicating == plain
    whole = time_program(lowered(program, blocks), costs)
    assert (whole.makespan, whole.bubble, whole.peak) == (plain.makespan, plain.bubble, plain.peak)


@patient
@given(schedule_programs(ranks=5, microbatches=8))
def test_nobody_does_two_things_at_once_and_nobody_is_idle_without_reason(program: Program) -> None:
    timetable = time_program(program, [StageCost(2, 3, 4)] * program.num_stages)
    ends = {(span.action.stage, span.action.kind, span.action.microbatch): span.end for span in timetable.spans}
    assert len(ends) == len(timetable.spans)
    starts = {0, *ends.values()}
    for before, after in zip(timetable.spans, timetable.spans[1:], strict=False):
        assert before.rank != after.rank or before.end <= after.start
        assert after.start in starts
    assert all(
        span.end - span.start == {"F": 2, "B": 7, "I": 3, "W": 4}[Kind(span.action.kind)] for span in timetable.spans
    )
