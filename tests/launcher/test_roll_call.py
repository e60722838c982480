"""Oracle: what each rank said, collected by hand, over a store of torch's that the ranks, as threads, share."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from megalm.errors import SaidByAnother, UserError
from megalm.launcher.placement import Placement
from megalm.launcher.roll_call import Present, roll_call

SIZE = 3


def call(refusal: str | None) -> list[list[str] | Exception]:
    """Return what each of the ranks gets, or raises."""
    store = dist.HashStore()  # type: ignore[attr-defined]

    def judge(roll: Sequence[Present]) -> list[str]:
        if refusal:
            raise UserError(refusal)
        return [f"{present.host} {present.visible} {present.gpu}" for present in roll]

    def rank(number: int) -> list[str] | Exception:
        present = Present(f"h{number}", number, "a" * number)
        try:
            return roll_call(store, Placement(number, SIZE, 0, 1, "h0", 29500, "torchrun"), present, judge)
        except UserError as error:
            return error

    with ThreadPoolExecutor(SIZE) as pool:
        return list(pool.map(rank, range(SIZE)))


def test_all_get_what_rank_0_makes_of_all() -> None:
    assert call(None) == [["h0 0 ", "h1 1 a", "h2 2 aa"]] * SIZE


def test_a_refusal_reaches_all_and_rank_0_tells_it() -> None:
    first, *others = call("h2 is late.")
    assert type(first) is UserError
    assert [type(other) for other in others] == [SaidByAnother] * (SIZE - 1)
    assert {str(error) for error in (first, *others)} == {"h2 is late."}


def test_a_rank_that_is_alone_judges_itself() -> None:
    assert roll_call(None, Placement.alone(), Present("h0", 0, ""), lambda roll: [roll[0].host]) == ["h0"]
    with pytest.raises(UserError, match="no"):
        roll_call(None, Placement.alone(), Present("h0", 0, ""), refuse)


def refuse(roll: Sequence[Present]) -> list[str]:
    raise UserError("no")
