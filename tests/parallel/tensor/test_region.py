"""Oracle: rows cut and summed by hand."""

from typing import Any

import pytest
import torch

from megalm.ledger import Ledger
from megalm.mesh import Axis
from megalm.parallel.tensor.region import Region, pick_rows, sum_to_rows
from tests.parallel.tensor import slices
from tests.ranks import RankContext, RankPool

WHOLE = [[float(row), 10.0 * row] for row in range(5)]


def borders(context: RankContext, sequence_parallel: bool) -> dict[str, Any]:
    region = Region(slices.tensor_axis(context), sequence_parallel)
    whole = torch.tensor(WHOLE)
    own = region.local_rows(whole)
    late, work = region.whole_rows_async(own)
    work.wait()
    partial = whole * 10**context.rank
    return {
        "own": own.tolist(),
        "whole": region.whole_rows(own).tolist(),
        "late": late.tolist(),
        "summed": region.sum_to_rows(partial.clone())[:, 0].tolist(),
        "numbers": region.local_rows(torch.arange(5)).tolist(),
    }


def through_autograd(context: RankContext, sequence_parallel: bool) -> tuple[bool, list[float], list[list[float]]]:
    region = Region(slices.tensor_axis(context), sequence_parallel)
    partial = torch.full((5, 2), float(context.rank + 1), requires_grad=True)
    kept = partial.detach().clone()
    rows = sum_to_rows(partial, region)
    rows.backward(region.local_rows(torch.tensor(WHOLE)))
    assert partial.grad is not None
    return torch.equal(partial.detach(), kept), rows[:, 0].tolist(), partial.grad.tolist()


def test_with_sequence_parallelism_the_last_ranks_are_padded_with_zeros(ranks: RankPool) -> None:
    found = ranks.run(3, borders, True)
    padded = [*WHOLE, [0.0, 0.0]]
    for rank, seen in enumerate(found):
        assert seen["own"] == padded[2 * rank : 2 * rank + 2]
        assert seen["whole"] == seen["late"] == padded
        assert seen["summed"] == [111 * row for row, _ in padded[2 * rank : 2 * rank + 2]]
        assert seen["numbers"] == [*range(5), 0][2 * rank : 2 * rank + 2]


def test_without_it_every_rank_has_all_rows(ranks: RankPool) -> None:
    for seen in ranks.run(3, borders, False):
        assert seen["own"] == seen["whole"] == seen["late"] == WHOLE
        assert seen["summed"] == [111 * row for row, _ in WHOLE]


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_backward_makes_the_gradient_whole_and_forward_keeps_its_input(
    ranks: RankPool, sequence_parallel: bool
) -> None:
    for rank, (kept, rows, gradient) in enumerate(ranks.run(3, through_autograd, sequence_parallel)):
        assert kept
        assert rows == (([6.0, 6.0] if rank < 2 else [6.0, 0.0]) if sequence_parallel else [6.0] * 5)
        assert gradient == WHOLE


@pytest.mark.parametrize(("num_tokens", "local"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_the_number_of_local_rows(num_tokens: int, local: int) -> None:
    axis = Axis("tp", (0, 1, 2), 2)
    region = Region(axis, sequence_parallel=True)
    assert region.num_local_rows(num_tokens) == local
    assert region.pad(torch.ones(num_tokens, 4)).sum() == 4 * num_tokens
    assert region.local_rows(torch.ones(num_tokens, 4)).shape == (local, 4)
    assert Region(axis).num_local_rows(num_tokens) == num_tokens


def test_gradients_are_partial_only_where_rows_are_cut() -> None:
    tp = Axis("tp", (0, 1), 0)
    assert Region(tp, True).partial_over == ("tp",)
    assert Region(tp, False).partial_over == ()
    assert Region(Axis.alone("tp"), True).partial_over == ()


def test_alone_no_border_does_anything() -> None:
    ledger = Ledger()
    region = Region(Axis("tp", (0,), 0, None, ledger), sequence_parallel=True)
    rows = torch.ones(5, 2)
    assert region.whole_rows(rows) is region.sum_to_rows(rows) is region.local_rows(rows) is region.pad(rows) is rows
    assert ledger.entries == []


def picked(context: RankContext, sequence_parallel: bool) -> tuple[list[list[float]], list[list[float]]]:
    region = Region(slices.tensor_axis(context), sequence_parallel)
    own = region.local_rows(torch.tensor(WHOLE)).clone().requires_grad_()
    rows = pick_rows(own, torch.tensor([4, 0, 4]), region)
    rows.backward(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert own.grad is not None
    return rows.tolist(), own.grad.tolist()


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_picked_rows_are_whole_on_every_rank(ranks: RankPool, sequence_parallel: bool) -> None:
    gradient = [[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [6.0, 8.0], [0.0, 0.0]]
    for rank, (rows, seen) in enumerate(ranks.run(3, picked, sequence_parallel)):
        assert rows == [WHOLE[4], WHOLE[0], WHOLE[4]]
        assert seen == (gradient[2 * rank : 2 * rank + 2] if sequence_parallel else gradient[:5])
