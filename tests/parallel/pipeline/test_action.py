"""Oracle: the words themselves, and torch's reading of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.pipelining.schedules import _Action

from megalm.errors import UserError
from megalm.parallel.pipeline.action import OF_A_STAGE, Action, Kind

numbers = st.integers(0, 300)


@st.composite
def actions(draw: st.DrawFn, blocks: st.SearchStrategy[int | None]) -> Action:
    kind = draw(st.sampled_from(Kind))
    return Action(draw(numbers), kind, None if kind in OF_A_STAGE else draw(numbers), draw(blocks))


@pytest.mark.parametrize(
    ("word", "action"),
    [
        ("0F0", Action(0, Kind.FORWARD, 0)),
        ("2B13", Action(2, Kind.BACKWARD, 13)),
        ("12B3/5", Action(12, Kind.BACKWARD, 3, 5)),
        ("3I1", Action(3, Kind.BACKWARD_INPUT, 1)),
        ("3W1/0", Action(3, Kind.BACKWARD_WEIGHT, 1, 0)),
        ("0SEND_F1", Action(0, Kind.SEND_FORWARD, 1)),
        ("1RECV_B1", Action(1, Kind.RECEIVE_BACKWARD, 1)),
        ("1UNSHARD", Action(1, Kind.GATHER)),
        ("1REDUCE_GRAD", Action(1, Kind.REDUCE)),
        ("0REDUCE_GRAD/7", Action(0, Kind.REDUCE, block=7)),
    ],
)
def test_words(word: str, action: Action) -> None:
    assert str(action) == repr(action) == word
    assert Action.parse(word) == Action.parse(f" {word} ") == action


@given(actions(st.none() | numbers))
def test_every_action_is_read_back(action: Action) -> None:
    assert Action.parse(str(action)) == action


@given(actions(st.none()))
def test_torch_reads_and_writes_the_same_words(action: Action) -> None:
    read = _Action.from_str(str(action))
    assert (read.stage_index, read.computation_type.value, read.microbatch_index) == tuple(action)[:3]
    assert Action.parse(str(read)) == action


@pytest.mark.parametrize(
    "word",
    ["", "F0", "0F", "0B", "0UNSHARD3", "0X0", "0F0/", "-1F0", "0f0", "0F0/1/2", "0F 0", "٣F0", "0F" + 5000 * "9"],
)
def test_what_is_no_word_is_refused(word: str) -> None:
    with pytest.raises(UserError) as refusal:
        Action.parse(word)
    assert str(refusal.value) == f"{word!r} is no action; write one like 2F0, 2B0, 2SEND_F0 or 2REDUCE_GRAD."
