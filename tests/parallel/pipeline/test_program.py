"""Oracle: the printed programs."""

import pytest

from megalm.parallel.pipeline.action import Action
from megalm.parallel.pipeline.program import Program, forward_only, one_stage, with_reductions


def printed(program: Program) -> str:
    return " ".join(map(str, program))


def read(words: str) -> list[Action]:
    return [Action.parse(word) for word in words.split()]


@pytest.mark.parametrize(
    ("num_microbatches", "num_blocks", "plain", "lowered"),
    [
        (1, 1, "0F0 0B0", "0F0 0B0/0 0R/0"),
        (2, 1, "0F0 0B0 0F1 0B1", "0F0 0B0 0F1 0B1/0 0R/0"),
        (1, 3, "0F0 0B0", "0F0 0B0/2 0R/2 0B0/1 0R/1 0B0/0 0R/0"),
        (2, 2, "0F0 0B0 0F1 0B1", "0F0 0B0 0F1 0B1/1 0R/1 0B1/0 0R/0"),
        (3, 2, "0F0 0B0 0F1 0B1 0F2 0B2", "0F0 0B0 0F1 0B1 0F2 0B2/1 0R/1 0B2/0 0R/0"),
        (0, 2, "", "0R/1 0R/0"),
    ],
)
def test_the_last_backward_is_cut_into_blocks_and_each_is_reduced_at_once(
    num_microbatches: int, num_blocks: int, plain: str, lowered: str
) -> None:
    assert printed(one_stage(num_microbatches)) == plain
    assert printed(with_reductions(one_stage(num_microbatches), num_blocks)) == lowered


def test_what_follows_the_last_backward_stays() -> None:
    assert printed(with_reductions(read("0F0 0F1 0B0 0B1 0F2"), 2)) == "0F0 0F1 0B0 0B1/1 0R/1 0B1/0 0R/0 0F2"


def test_an_evaluation_only_goes_forward() -> None:
    assert printed(forward_only(3)) == "0F0 0F1 0F2"
    assert forward_only(0) == []
