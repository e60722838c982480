"""Oracle: the chain rule through the stages, written out by hand for each kind of action."""

import pytest

from megalm.parallel.pipeline.action import Action
from megalm.parallel.pipeline.needs import makes_input_gradient, needs, run_order
from megalm.parallel.pipeline.program import Program
from tests.parallel.pipeline.programs import read

PLAIN = read("0F0 0F1 0B0 0I1 0W1", "1F0 1B0 1F1 1I1 1W1")
SENT = read(
    "0F0 0SEND_F0 0RECV_B0 0B0/1 0REDUCE_GRAD/1 0B0/0 0REDUCE_GRAD/0",
    "1RECV_F0 1F0 1I0 1SEND_B0 1W0/1 1REDUCE_GRAD/1 1W0/0 1REDUCE_GRAD/0",
)
IN_V = read(
    "0UNSHARD 0F0 0SEND_F0 3RECV_F0 3F0 3B0 3SEND_B0 0RECV_B0 0B0",
    "1RECV_F0 1F0 2F0 2SEND_F0 2RECV_B0 2I0 2W0 1I0 1SEND_B0 1W0",
)


@pytest.mark.parametrize(
    ("program", "word", "needed"),
    [
        (PLAIN, "0F0", ""),
        (PLAIN, "1F0", "0F0"),
        (PLAIN, "1B0", "1F0"),
        (PLAIN, "0B0", "0F0 1B0"),
        (PLAIN, "0I1", "0F1 1I1"),
        (PLAIN, "0W1", "0I1"),
        (SENT, "0SEND_F0", "0F0"),
        (SENT, "1RECV_F0", "0SEND_F0"),
        (SENT, "1F0", "1RECV_F0"),
        (SENT, "1SEND_B0", "1I0"),
        (SENT, "0RECV_B0", "1SEND_B0"),
        (SENT, "0B0/1", "0F0 0RECV_B0"),
        (SENT, "0B0/0", "0B0/1"),
        (SENT, "0REDUCE_GRAD/1", "0B0/1"),
        (SENT, "1W0/1", "1I0"),
        (SENT, "1W0/0", "1W0/1"),
        (SENT, "1REDUCE_GRAD/0", "1W0/0"),
        (SENT, "0REDUCE_GRAD", "0B0/0"),
        (IN_V, "2F0", "1F0"),
        (IN_V, "3F0", "3RECV_F0"),
        (IN_V, "3B0", "3F0"),
        (IN_V, "2I0", "2F0 2RECV_B0"),
        (IN_V, "1I0", "1F0 2I0"),
        (IN_V, "0UNSHARD", ""),
        (read("0F0 0F1 0B0 0B1/0 0REDUCE_GRAD/0"), "0REDUCE_GRAD/0", "0B0 0B1/0"),
    ],
)
def test_what_an_action_needs(program: Program, word: str, needed: str) -> None:
    assert " ".join(map(str, needs(Action.parse(word), program))) == needed


@pytest.mark.parametrize(("program", "word"), [(PLAIN, "1B0"), (SENT, "1I0"), (read("0F0 0B0/1 0B0/0"), "0B0/0")])
def test_what_completes_the_gradient_of_the_input(program: Program, word: str) -> None:
    assert str(makes_input_gradient(int(word[0]), 0, program)) == word


def test_ranks_together_find_an_order() -> None:
    done = [f"{rank}:{action}" for rank, action in run_order(SENT)]
    assert len(done) == len(SENT.words)
    for before, after in [("0:0SEND_F0", "1:1RECV_F0"), ("1:1SEND_B0", "0:0RECV_B0"), ("0:0F0", "0:0B0/1")]:
        assert done.index(before) < done.index(after)


def test_the_order_ends_where_ranks_wait_for_one_another() -> None:
    program = read("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1")
    assert [str(action) for _, action in run_order(program)] == ["0F0", "1F0"]
