"""Oracle: lowered programs written by hand, and a second opinion by values (brute_force)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megalm.parallel.pipeline.action import COMPUTE, Action, Kind
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedule import BUILT_IN, MADE_FOR
from megalm.parallel.pipeline.schedules import forwards, one_f_one_b, zb_h1
from megalm.parallel.pipeline.v_schedules import zb_v
from tests.parallel.pipeline import brute_force
from tests.parallel.pipeline.programs import lowered, patient, printed, read, schedule_programs, words


@pytest.mark.parametrize(
    ("num_microbatches", "num_blocks", "expected"),
    [
        (1, 1, "0F0 0B0/0 0REDUCE_GRAD/0"),
        (2, 1, "0F0 0B0 0F1 0B1/0 0REDUCE_GRAD/0"),
        (2, 2, "0F0 0B0 0F1 0B1/1 0REDUCE_GRAD/1 0B1/0 0REDUCE_GRAD/0"),
        (0, 2, "0REDUCE_GRAD/1 0REDUCE_GRAD/0"),
    ],
)
def test_the_last_backward_is_cut_and_each_block_reduced_at_once(
    num_microbatches: int, num_blocks: int, expected: str
) -> None:
    assert printed(with_reductions(one_f_one_b(1, num_microbatches), [num_blocks])) == [expected]


def test_each_backward_may_be_reduced() -> None:
    assert printed(with_reductions(one_f_one_b(1, 2), [2], of_each_microbatch=True)) == [
        "0F0 0B0/1 0REDUCE_GRAD0/1 0B0/0 0REDUCE_GRAD0/0 0F1 0B1/1 0REDUCE_GRAD1/1 0B1/0 0REDUCE_GRAD1/0"
    ]
    assert printed(with_reductions(one_f_one_b(1, 2), [2], at_end=[(0, 0)], of_each_microbatch=True)) == [
        "0F0 0B0/1 0REDUCE_GRAD0/1 0B0/0 0F1 0B1/1 0REDUCE_GRAD1/1 0B1/0 0REDUCE_GRAD/0"
    ]


def test_the_last_half_for_the_weights_is_cut() -> None:
    assert printed(with_reductions(zb_h1(2, 1), [2, 1])) == [
        "0F0 0I0 0W0/1 0REDUCE_GRAD/1 0W0/0 0REDUCE_GRAD/0",
        "1F0 1I0 1W0/0 1REDUCE_GRAD/0",
    ]


def test_what_follows_the_last_backward_stays() -> None:
    program = read("0F0 1F0 0F1 1F1 1B0 1B1 0B0 0B1")
    assert printed(with_reductions(program, [1, 2])) == [
        "0F0 1F0 0F1 1F1 1B0 1B1/1 1REDUCE_GRAD/1 1B1/0 1REDUCE_GRAD/0 0B0 0B1/0 0REDUCE_GRAD/0"
    ]


def test_a_block_that_two_stages_share_is_reduced_at_the_end() -> None:
    program = read("0F0 1F0 1B0 0B0")
    assert printed(with_reductions(program, [2, 2], at_end=[(0, 0), (1, 1)])) == [
        "0F0 1F0 1B0/1 1B0/0 1REDUCE_GRAD/0 0B0/1 0REDUCE_GRAD/1 0B0/0 1REDUCE_GRAD/1 0REDUCE_GRAD/0"
    ]


def test_without_micro_batches_every_rank_reduces_its_stages_from_the_last() -> None:
    program = with_reductions(one_f_one_b(2, 0), [1, 2, 1, 1], at_end={(2, 0)})
    assert printed(program) == [
        "0REDUCE_GRAD/0 2REDUCE_GRAD/0",
        "3REDUCE_GRAD/0 1REDUCE_GRAD/1 1REDUCE_GRAD/0",
    ]


@pytest.mark.parametrize("name", BUILT_IN)
def test_data_ranks_with_different_numbers_of_micro_batches_reduce_in_the_same_order(name: str) -> None:
    stages = MADE_FOR.get(name, 3)
    orders = set()
    for num_microbatches in range(1, 12):
        program = with_reductions(BUILT_IN[name](3, num_microbatches, stages), [2] * 3 * stages, at_end={(0, 1)})
        orders.add(tuple(tuple(a for a in actions if a.kind is Kind.REDUCE) for actions in program.ranks))
    assert len(orders) == 1


def test_blocks_of_every_stage_are_asked_for() -> None:
    with pytest.raises(ValueError, match="2 stages, but blocks of 1"):
        with_reductions(one_f_one_b(2, 1), [1])


def test_sends_stand_behind_what_makes_the_value_and_receives_before_what_uses_it() -> None:
    assert printed(with_communication(one_f_one_b(2, 2))) == [
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1",
        "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
    ]


def test_nothing_is_sent_between_stages_of_one_rank() -> None:
    assert printed(with_communication(zb_v(2, 1))) == [
        "0F0 0SEND_F0 3RECV_F0 3F0 3I0 3SEND_B0 3W0 0RECV_B0 0I0 0W0",
        "1RECV_F0 1F0 2F0 2SEND_F0 2RECV_B0 2I0 2W0 1I0 1SEND_B0 1W0",
    ]


def test_what_was_sent_first_is_received_first_though_it_is_used_last() -> None:
    program = read("0F0 0F1 0B1 0B0", "1F1 1F0 1B1 1B0")
    assert printed(with_communication(program)) == [
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B1 0B1 0RECV_B0 0B0",
        "1RECV_F0 1RECV_F1 1F1 1F0 1B1 1SEND_B1 1B0 1SEND_B0",
    ]


def test_forward_and_backward_traffic_share_a_line() -> None:
    """Rank 0 sends the gradient of stage 2 before the output of stage 0; rank 1 uses them the other way round."""
    program = read("0F0 2F0 2B0 0F1 0B0 2F1 2B1 0B1", "1F0 1F1 1B0 1B1")
    assert printed(with_communication(program))[1] == (
        "1RECV_F0 1F0 1SEND_F0 2".replace(" 2", " ")
        + "1RECV_B0 1RECV_F1 1F1 1SEND_F1 1B0 1SEND_B0 1RECV_B1 1B1 1SEND_B1"
    )


def test_a_cut_backward_sends_after_its_first_block_and_before_the_reduction() -> None:
    expected = [
        "0F0 0SEND_F0 0RECV_B0 0B0/0 0REDUCE_GRAD/0",
        "1RECV_F0 1F0 1B0/1 1REDUCE_GRAD/1 1B0/0 1SEND_B0 1REDUCE_GRAD/0",
    ]
    assert printed(with_communication(with_reductions(one_f_one_b(2, 1), [1, 2]))) == expected
    assert printed(with_reductions(with_communication(one_f_one_b(2, 1)), [1, 2])) == expected


@patient
@given(schedule_programs(ranks=6, microbatches=10), st.integers(1, 3))
def test_either_order_of_lowering_is_right(program: Program, blocks: int) -> None:
    num_blocks = [blocks] * program.num_stages
    made = with_communication(with_reductions(program, num_blocks, at_end=[(0, 0)]))
    assert made == with_reductions(with_communication(program), num_blocks, at_end=[(0, 0)])
    assert made == with_communication(made)


@patient
@given(schedule_programs(ranks=6, microbatches=10), st.integers(1, 3))
def test_a_lowered_schedule_is_the_same_training_step(program: Program, blocks: int) -> None:
    made = lowered(program, blocks)
    assert brute_force.is_one_training_step(words(made))
    assert brute_force.runs_to_its_end(words(made))
    whole = [dict.fromkeys(a._replace(block=None) for a in actions if a.kind in COMPUTE) for actions in made.ranks]
    assert [list(actions) for actions in whole] == [list(actions) for actions in program.ranks]


@patient
@given(schedule_programs(ranks=6, microbatches=10))
def test_every_receive_is_as_late_as_it_can_be(program: Program) -> None:
    """Exchanging a receive with the action behind it breaks the program, or is the same: both are receives."""
    made = words(with_communication(program))
    places = [(rank, i) for rank, line in enumerate(made) for i, word in enumerate(line) if "RECV" in word]
    for rank, i in places[:: max(1, len(places) // 5)]:
        line = made[rank]
        if "RECV" not in line[i + 1]:
            later = [*line[:i], line[i + 1], line[i], *line[i + 2 :]]
            assert not brute_force.runs_to_its_end([*made[:rank], later, *made[rank + 1 :]])


def evaluation(program: Program) -> Program:
    return forwards(list(program.rank_of_stage.values()), len(program.ranks), program.num_microbatches)


def test_an_evaluation_only_goes_forward() -> None:
    assert printed(evaluation(lowered(one_f_one_b(2, 3), 2))) == ["0F0 0F1 0F2", "1F0 1F1 1F2"]
    assert printed(with_communication(evaluation(zb_v(2, 1)))) == [
        "0F0 0SEND_F0 3RECV_F0 3F0",
        "1RECV_F0 1F0 2F0 2SEND_F0",
    ]
    assert forwards([0, 1], 2, 0) == Program.of([[], []])


@patient
@given(schedule_programs(ranks=6, microbatches=10))
def test_an_evaluation_comes_to_its_end(program: Program) -> None:
    lowered_forwards = with_communication(evaluation(program))
    assert brute_force.runs_to_its_end(words(lowered_forwards))
    number = program.num_microbatches - 1
    assert all(Action(stage, Kind.FORWARD, number) in lowered_forwards.words for stage in range(program.num_stages))
