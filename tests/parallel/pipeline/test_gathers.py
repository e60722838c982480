"""Oracle: lowered programs written by hand, and counts of what is gathered at each moment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megalm.parallel.pipeline.action import READS_PARAMETERS, Kind
from megalm.parallel.pipeline.check import check
from megalm.parallel.pipeline.gathers import with_gathers
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedules import forwards, one_f_one_b, zb_h1
from tests.parallel.pipeline.programs import patient, printed, read, schedule_programs


@pytest.mark.parametrize(
    ("prefetch", "expected"),
    [
        (0, "0UNSHARD/0 0F0/0 0RESHARD/0 0UNSHARD/1 0F0/1 0B0/1 0RESHARD/1 0UNSHARD/0 0B0/0 0RESHARD/0"),
        (1, "0UNSHARD/0 0UNSHARD/1 0F0/0 0RESHARD/0 0F0/1 0UNSHARD/0 0B0/1 0RESHARD/1 0B0/0 0RESHARD/0"),
    ],
)
def test_two_blocks_forward_and_backward(prefetch: int, expected: str) -> None:
    assert printed(with_gathers(one_f_one_b(1, 1), [2], prefetch)) == [expected]


def test_the_next_block_is_gathered_before_this_one_computes() -> None:
    assert printed(with_gathers(forwards([0], 1, 1), [4], 1)) == [
        "0UNSHARD/0 0UNSHARD/1 0F0/0 0RESHARD/0 0UNSHARD/2 0F0/1 0RESHARD/1 "
        "0UNSHARD/3 0F0/2 0RESHARD/2 0F0/3 0RESHARD/3"
    ]


def test_the_weight_half_reads_no_parameters() -> None:
    assert printed(with_gathers(zb_h1(1, 1), [1], 0)) == ["0UNSHARD/0 0F0/0 0I0/0 0RESHARD/0 0W0"]


def test_what_another_rank_waits_for_goes_right_after_the_block_that_makes_it() -> None:
    program = with_communication(with_gathers(with_reductions(read("0F0 0B0", "1F0 1B0"), [2, 1]), [2, 1], 0))
    assert printed(program) == [
        "0UNSHARD/0 0F0/0 0RESHARD/0 0UNSHARD/1 0F0/1 0SEND_F0 0RECV_B0 0B0/1 0RESHARD/1 0REDUCE_GRAD/1 "
        "0UNSHARD/0 0B0/0 0RESHARD/0 0REDUCE_GRAD/0",
        "1UNSHARD/0 1RECV_F0 1F0/0 1B0/0 1SEND_B0 1RESHARD/0 1REDUCE_GRAD/0",
    ]


def most_gathered(program: Program) -> int:
    """Return the most blocks that any rank holds whole at once."""
    most = 0
    for actions in program.ranks:
        held = 0
        for action in actions:
            held += (action.kind is Kind.GATHER) - (action.kind is Kind.RELEASE)
            most = max(most, held)
    return most


@patient
@given(schedule_programs(ranks=4, microbatches=8), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_every_schedule_passes_and_holds_no_more_than_the_window(
    program: Program, blocks: int, prefetch: int, often: bool
) -> None:
    cut = [blocks] * program.num_stages
    made = with_communication(with_gathers(with_reductions(program, cut, of_each_microbatch=often), cut, prefetch))
    check(made)
    assert most_gathered(made) <= prefetch + 1 + (prefetch > 0)
    compute = [action for _, action in made.actions() if action.kind in READS_PARAMETERS]
    whole = [action for _, action in program.actions() if action.kind in READS_PARAMETERS]
    assert len(compute) == blocks * len(whole)
