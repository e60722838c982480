"""Oracle: the words themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megalm.errors import UserError
from megalm.parallel.pipeline.action import Action, Kind

numbers = st.integers(0, 300)


@pytest.mark.parametrize(
    ("word", "action"),
    [
        ("0F0", Action(0, Kind.FORWARD, 0)),
        ("2B13", Action(2, Kind.BACKWARD, 13)),
        ("12B3/5", Action(12, Kind.BACKWARD, 3, 5)),
        ("1R", Action(1, Kind.REDUCE)),
        ("0R/7", Action(0, Kind.REDUCE, block=7)),
    ],
)
def test_words(word: str, action: Action) -> None:
    assert str(action) == word
    assert Action.parse(word) == action


@given(numbers, st.sampled_from(Kind), numbers, st.none() | numbers)
def test_every_action_is_read_back(stage: int, kind: Kind, microbatch: int, block: int | None) -> None:
    action = Action(stage, kind, None if kind is Kind.REDUCE else microbatch, block)
    assert Action.parse(str(action)) == action


@pytest.mark.parametrize("word", ["", "F0", "0F", "0B", "0R3", "0X0", "0F0 ", "0F0/", "-1F0", "0f0", "0F0/1/2"])
def test_what_is_no_word_is_refused(word: str) -> None:
    with pytest.raises(UserError) as refusal:
        Action.parse(word)
    assert str(refusal.value) == f"{word!r} is no action; write one like 2F0, 2B0 or 2R."
