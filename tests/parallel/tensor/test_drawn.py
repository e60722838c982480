"""Oracle: the softmax of the whole logits, by chi-square at a fixed seed; and one process, whatever the cut."""

import pytest
import torch
from torch import Tensor

from megalm import rng
from megalm.mesh import Axis
from megalm.parallel.tensor import drawn
from megalm.parallel.tensor.cross_entropy import VocabParallelHead
from megalm.parallel.tensor.drawn import DrawnTokens, gumbel
from megalm.parallel.tensor.vocab import vocab_ranges
from tests.objectives.chi_square import chance
from tests.parallel.tensor import slices
from tests.ranks import RankContext, RankPool

HIDDEN = 6


def head_of(axis: Axis, weight: Tensor, bias: Tensor) -> VocabParallelHead:
    start, stop = vocab_ranges(len(weight), axis.size)[axis.rank]
    head = VocabParallelHead(len(weight), HIDDEN, axis, bias=True).to(weight.dtype)
    assert head.bias is not None
    head.weight.data.copy_(weight[start:stop])
    head.bias.data.copy_(bias[start:stop])
    return head


def drawn_with(axis: Axis, vocab_size: int, dtype: torch.dtype, offset: float = 0.0) -> list[int]:
    weight, bias = slices.random(vocab_size, HIDDEN, seed=1).to(dtype), slices.random(vocab_size, seed=2).to(dtype)
    if offset:
        weight, bias = torch.zeros_like(weight), torch.full_like(bias, offset)
    x = slices.random(50, HIDDEN, seed=3).to(dtype)
    found: list[int] = DrawnTokens()(x, torch.arange(700, 750), head_of(axis, weight, bias)).tolist()
    return found


def drawn_on_rank(context: RankContext, vocab_size: int, dtype: torch.dtype, offset: float) -> list[int]:
    return drawn_with(slices.tensor_axis(context), vocab_size, dtype, offset)


def test_draws_have_the_shares_of_the_softmax() -> None:
    """Of one distribution at many places, and of many distributions at one place of many samples."""
    weight, bias = slices.random(9, HIDDEN, seed=1), slices.random(9, seed=2)
    head, draws = head_of(Axis.alone(), weight, bias), DrawnTokens()
    draws.stream = rng.key(11, "a seed")
    x = slices.random(1, HIDDEN, seed=3)
    shares = (x @ weight.t() + bias).softmax(-1).squeeze(0)
    for token_rows in (torch.arange(20000), torch.arange(20000) * 128 + 5):
        found = draws(x.expand(20000, HIDDEN), token_rows, head)
        assert chance(torch.bincount(found, minlength=9).numpy(), shares.numpy()) > 1e-3
        pairs = found[:-1] * 9 + found[1:]  # neighbours know nothing of one another
        both = (shares.unsqueeze(1) * shares).flatten()
        assert chance(torch.bincount(pairs, minlength=81).numpy(), both.numpy()) > 1e-3


def test_noise_is_a_function_of_stream_place_and_token() -> None:
    rows, ids = torch.tensor([5, 900, 7]), torch.arange(1000)
    noise = gumbel(3, rows, ids)
    assert torch.equal(noise[1:, 400:], gumbel(3, rows[1:], ids[400:]))
    assert not torch.equal(noise, gumbel(4, rows, ids))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.1)  # Euler's constant
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.2)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    ("vocab_size", "dtype", "offset"),
    [(1009, torch.float64, 0.0), (2, torch.float64, 0.0), (7, torch.float32, 0.0), (1009, torch.float64, 1e300)],
    ids=["fp64", "fewer tokens than ranks", "fp32", "all are as good"],
)
def test_no_cut_changes_a_draw(ranks: RankPool, size: int, vocab_size: int, dtype: torch.dtype, offset: float) -> None:
    expected = drawn_with(Axis.alone(), vocab_size, dtype, offset)
    for found in ranks.run(size, drawn_on_rank, vocab_size, dtype, offset):
        assert found == expected
    assert len(set(expected)) > 1 or offset
    if offset:
        assert set(expected) == {0}


def test_no_chunk_changes_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = drawn_with(Axis.alone(), 1009, torch.float64)
    monkeypatch.setattr(drawn, "CHUNK_TOKENS", 7)
    assert drawn_with(Axis.alone(), 1009, torch.float64) == expected


def test_nothing_is_drawn_of_no_rows() -> None:
    head = head_of(Axis.alone(), slices.random(9, HIDDEN, seed=1), slices.random(9, seed=2))
    assert DrawnTokens()(torch.zeros(0, HIDDEN, dtype=torch.float64), torch.zeros(0).long(), head).tolist() == []
