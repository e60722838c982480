"""Oracle: sums by hand, and the worker processes themselves (their numbers, their ends)."""

import os
import signal
import time
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.ranks import MAX_RANKS, RankContext, RankFailure, RankPool


def scaled_sum(context: RankContext, factor: float) -> tuple[int, list[float]]:
    total = torch.tensor([context.rank + 1.0, 10.0 * (context.rank + 1)]) * factor
    dist.all_reduce(total)
    return context.num_ranks, total.tolist()


def sums_in_halves(context: RankContext, times: int) -> list[float]:
    """Sum over pairs of ranks, in groups that only their own members make."""
    first = context.rank // 2 * 2
    sums = []
    for _ in range(times):
        group = dist.new_group([first, first + 1], use_local_synchronization=True)
        total = torch.tensor([context.rank + 1.0])
        dist.all_reduce(total, group=group)
        sums.append(total.item())
    return sums


def sum_of_the_first_two(context: RankContext) -> float | None:
    if context.rank >= 2:
        return None
    group = dist.new_group([0, 1], use_local_synchronization=True)
    total = torch.tensor([context.rank + 1.0])
    dist.all_reduce(total, group=group)
    return total.item()


def raise_on(context: RankContext, rank: int) -> int:
    if context.rank == rank:
        raise LookupError(f"planted on {rank}")
    dist.all_reduce(torch.ones(1))  # the others wait here for the rank that raised
    return context.rank


def raise_or_hang(context: RankContext) -> None:
    if context.rank == 0:
        raise LookupError("planted on 0")
    time.sleep(600)


def hang_on(context: RankContext, rank: int) -> int:
    if context.rank == rank:
        time.sleep(600)
    return context.rank


def die_on(context: RankContext, rank: int) -> int:
    if context.rank == rank:
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return context.rank


def sum_after_a_while(context: RankContext, alone: int) -> str:
    """Ask for a sum that no other rank takes part in, and return why there is none."""
    group = dist.new_group(range(context.num_ranks), timeout=timedelta(seconds=1))
    if context.rank != alone:
        return "left"
    time.sleep(0.5)
    with pytest.raises(RuntimeError) as found:
        dist.all_reduce(torch.ones(1), group=group)
    return str(found.value)


def leave_a_mess(context: RankContext) -> None:
    torch.set_default_dtype(torch.float64)
    os.environ["MESS"] = "left"
    os.chdir("/")


def look_around(context: RankContext) -> tuple[str, str | None, bool, float, int]:
    draw = torch.rand(1)
    return str(draw.dtype), os.environ.get("MESS"), Path("setup.py").exists(), draw.item(), torch.get_num_threads()


def warn(context: RankContext) -> None:
    warnings.warn("planted", stacklevel=1)


def give_a_lambda(context: RankContext) -> object:
    return lambda: None


def process_number(context: RankContext) -> int:
    return os.getpid()


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 5])
def test_the_default_group_holds_the_ranks_of_the_call(ranks: RankPool, num_ranks: int) -> None:
    ones = num_ranks * (num_ranks + 1) / 2
    assert ranks.run(num_ranks, scaled_sum, 2.0) == [(num_ranks, [2 * ones, 20 * ones])] * num_ranks


def test_groups_are_made_by_their_members_only_and_forgotten_after_the_call(ranks: RankPool) -> None:
    for _ in range(10):
        assert ranks.run(4, sums_in_halves, 3) == [[3.0] * 3, [3.0] * 3, [7.0] * 3, [7.0] * 3]
        assert ranks.run(5, sum_of_the_first_two) == [3.0, 3.0, None, None, None]


def test_processes_are_shared_by_calls(ranks: RankPool) -> None:
    assert ranks.run(2, process_number) == ranks.run(3, process_number)[:2]


def test_a_call_starts_from_a_clean_state(ranks: RankPool) -> None:
    before = ranks.run(2, look_around)
    ranks.run(2, leave_a_mess)
    assert ranks.run(2, look_around) == before
    assert before[0][:3] == ("torch.float32", None, True)
    assert before[0][4] == 1


def test_a_rank_that_raises_fails_the_call_with_its_traceback_first(ranks: RankPool) -> None:
    start = time.monotonic()
    with pytest.raises(RankFailure, match=r"^rank 1 raised:\n(.|\n)*LookupError: planted on 1"):
        ranks.run(3, raise_on, 1)
    assert time.monotonic() - start < 30
    assert ranks.run(3, scaled_sum, 1.0) == [(3, [6.0, 60.0])] * 3


def test_warnings_are_errors_on_ranks(ranks: RankPool) -> None:
    with pytest.raises(RankFailure, match="UserWarning: planted"):
        ranks.run(1, warn)


def test_a_result_that_cannot_travel_is_told(ranks: RankPool) -> None:
    with pytest.raises(RankFailure, match=r"rank 0 raised:(.|\n)*give_a_lambda"):
        ranks.run(1, give_a_lambda)


def test_a_rank_that_hangs_is_named_with_its_place_and_replaced(ranks: RankPool) -> None:
    before = ranks.run(2, process_number)
    with pytest.raises(RankFailure, match=r"rank 1 hung: no answer within 0\.5 s(.|\n)*in hang_on"):
        ranks.run(2, hang_on, 1, timeout_s=0.5)
    after = ranks.run(2, process_number)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert not is_running(before[1])


def test_a_rank_that_raises_is_not_kept_waiting_for_one_that_hangs(
    ranks: RankPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "grace_s", 0.5)
    start = time.monotonic()
    with pytest.raises(RankFailure, match=r"^rank 0 raised:(.|\n)*planted on 0(.|\n)*rank 1 hung"):
        ranks.run(2, raise_or_hang)
    assert time.monotonic() - start < 30


def test_a_rank_that_is_done_leaves_its_groups_open_for_the_others(ranks: RankPool) -> None:
    for alone in range(2):
        (told,) = (text for text in ranks.run(2, sum_after_a_while, alone) if text != "left")
        assert "Timed out" in told, told


def test_a_rank_that_dies_is_named_with_its_signal_and_replaced(ranks: RankPool) -> None:
    with pytest.raises(RankFailure, match=r"rank 0 died without an answer \(signal SIGKILL\)\.\n(.*\n)*last words$"):
        ranks.run(2, die_on, 0)
    assert ranks.run(2, scaled_sum, 1.0) == [(2, [3.0, 30.0])] * 2


def test_more_ranks_than_the_pool_has_are_refused(ranks: RankPool) -> None:
    with pytest.raises(ValueError, match=f"1 to {MAX_RANKS} ranks, not {MAX_RANKS + 1}"):
        ranks.run(MAX_RANKS + 1, process_number)


def test_no_process_outlives_the_pool_not_even_a_stuck_one() -> None:
    pool = RankPool()
    numbers = pool.run(2, process_number)
    os.kill(numbers[1], signal.SIGSTOP)
    pool.close()
    deadline = time.monotonic() + 10
    while any(is_running(number) for number in numbers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
