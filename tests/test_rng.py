"""Oracle: the generator written again in Python integers, the whole matrix for its slices, and statistics.

Statistics are of fixed keys, so no run of the tests differs from another; bounds are 5 standard deviations.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megalm import rng

patient = settings(deadline=None, max_examples=40)
WORD = (1 << 64) - 1


def splitmix(index: int, stream: int) -> int:
    """Return the high 32 bits of splitmix64's finalizer."""
    x = (index * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x >> 32


def signed(number: int) -> int:
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number


def bits_by_hand(stream: int, row: int, column: int) -> int:
    x = signed(splitmix(row, stream) ^ splitmix(column, stream ^ 0x5851F42D4C957F2D))
    x = signed(x * 0x85EBCA6B)
    return signed((x ^ (x >> 15)) * 0xC2B2AE35)


def normal(stream: int, rows: int, columns: int, row_start: int = 0, column_start: int = 0) -> Tensor:
    drawn = torch.empty(rows, columns, dtype=torch.float64)
    rng.fill_normal(drawn, stream, 1.0, row_start, column_start)
    return drawn


def dependence(samples: Tensor) -> float:
    """Return how far the rows' correlations lie from those of independent rows, in standard deviations."""
    centered = samples - samples.mean(1, keepdim=True)
    centered /= centered.norm(dim=1, keepdim=True)
    r = (centered @ centered.t())[torch.ones(len(samples), len(samples)).triu(1).bool()]
    return (r.square().sum().item() * (samples.shape[1] - 1) - len(r)) / math.sqrt(2 * len(r))


@patient
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**62), min_size=1, max_size=3), st.integers(0, 2**40))
def test_bits_are_the_counter_generator_in_32_bits(stream: int, rows: list[int], column: int) -> None:
    columns = [column, column + 1]
    drawn = rng.bits(stream, torch.tensor(rows), torch.tensor(columns))
    assert drawn.dtype == torch.int32
    assert drawn.tolist() == [[bits_by_hand(stream, row, at) for at in columns] for row in rows]


def test_rows_may_have_any_shape() -> None:
    rows = torch.tensor([[3, 1, 4], [1, 5, 9]])
    drawn = rng.bits(7, rows, torch.arange(4))
    assert drawn.shape == (2, 3, 4)
    assert torch.equal(drawn[1, 2], rng.bits(7, torch.tensor([9]), torch.arange(4))[0])


def test_a_key_is_63_bits_of_its_words_their_types_and_their_order() -> None:
    words: list[tuple[int | str, ...]] = [(1, "a"), (2, "a"), (1, "b"), ("1", "a"), ("a", 1), (1, "a", ""), (1,)]
    keys = [rng.key(*some) for some in words]
    assert len(set(keys)) == len(words)
    assert all(0 <= key < 2**63 for key in keys)
    assert rng.key(1234, "layers.0.mlp.down_proj.weight") == 5484120223599977106


@patient
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(0, 39), st.integers(0, 39)),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.sampled_from([1, 64, 1 << 20]),
)
def test_a_slice_of_a_named_matrix_equals_the_wholes_slice_bit_for_bit(
    size: tuple[int, int], start: tuple[int, int], dtype: torch.dtype, block_elements: int
) -> None:
    whole = torch.empty(80, 80, dtype=dtype)
    rng.fill_normal(whole, 11, 0.02, 0, 0)
    part = torch.empty(size, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "_BLOCK_ELEMENTS", block_elements)
        rng.fill_normal(part, 11, 0.02, *start)
    assert torch.equal(part, whole[start[0] : start[0] + size[0], start[1] : start[1] + size[1]])


def test_a_large_slice_is_drawn_in_blocks_that_do_not_show() -> None:
    whole = torch.empty(1500, 1000)
    rng.fill_normal(whole, 5, 0.02, 0, 0)
    part = torch.empty(1400, 333)
    rng.fill_normal(part, 5, 0.02, 77, 501)
    assert torch.equal(part, whole[77:1477, 501:834])


def test_an_empty_slice_is_drawn() -> None:
    for shape in ((0, 3), (3, 0)):
        rng.fill_normal(torch.empty(shape), 5, 0.02, 2, 2)


def test_draws_are_normal() -> None:
    drawn = normal(rng.key(0, "moments"), 1000, 1000).flatten()
    n = len(drawn)
    assert abs(drawn.mean()) < 5 / math.sqrt(n)
    assert abs(drawn.std() - 1) < 5 / math.sqrt(2 * n)
    assert abs((drawn**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((drawn**4).mean() - 3) < 5 * math.sqrt(96 / n)
    uniform = torch.special.ndtr(drawn).sort().values
    distance = (uniform - torch.arange(n) / n).abs().max().item()
    assert distance < 2 / math.sqrt(n)  # Kolmogorov and Smirnov: exceeded once in 1500 samples


def test_the_standard_deviation_is_a_factor() -> None:
    small = torch.empty(30, 30, dtype=torch.float64)
    rng.fill_normal(small, 3, 0.02, 0, 0)
    assert torch.equal(small, normal(3, 30, 30) * 0.02)


def test_rows_columns_and_keys_are_independent() -> None:
    drawn = normal(rng.key(0, "independence"), 300, 300)
    keys = torch.stack([normal(rng.key(0, f"key {n}"), 15, 20).flatten() for n in range(300)])
    for samples in (drawn, drawn.t(), keys):
        assert abs(dependence(samples)) < 5
        assert abs(dependence(samples.square())) < 5
        assert abs(dependence(samples.sign())) < 5


def test_products_of_rows_are_independent_too() -> None:
    """Row and column meet in one exclusive or, so four cells of a rectangle could conspire."""
    index = torch.arange(1000)
    sign = torch.where(rng.bits(rng.key(0, "cells"), index, index) < 0, -1.0, 1.0)
    assert abs(dependence(sign[0::2] * sign[1::2])) < 5
    rectangles = sign[0::2, 0::2] * sign[1::2, 0::2] * sign[0::2, 1::2] * sign[1::2, 1::2]
    assert abs(rectangles.mean().item()) < 5 / math.sqrt(rectangles.numel())


def test_no_stream_is_a_shift_of_another() -> None:
    first, second = (normal(rng.key(seed, "shift"), 64, 64) for seed in (0, 1))
    for shift in range(-3, 4):
        both = torch.stack([first.flatten(), second.roll(shift, 1).flatten()])
        assert abs(both.corrcoef()[0, 1].item()) < 5 / math.sqrt(64 * 64)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.25, 0.5, 0.9])
def test_the_mask_drops_its_share_of_every_row_and_column(p: float) -> None:
    kept = rng.keep_mask(rng.key(0, "mask"), torch.arange(1024), torch.arange(1024), p).double()
    spread = math.sqrt(1024 * p * (1 - p))
    assert abs(kept.sum().item() - (1 - p) * 1024**2) < 5 * spread * 32
    for counts in (kept.sum(0), kept.sum(1)):
        chi_square = ((counts - (1 - p) * 1024) / spread).square().sum().item()
        assert abs(chi_square - 1024) < 5 * math.sqrt(2 * 1024 * (1 + 1 / spread**2))
    if 0.1 <= p <= 0.9:
        assert abs(dependence(kept)) < 5
        assert abs(dependence(kept.t())) < 5


def test_high_bits_are_uniform() -> None:
    drawn = rng.bits(rng.key(0, "uniform"), torch.arange(2048), torch.arange(1024)).flatten().long() + 2**31
    for bins in (256, 4096):
        counts = torch.bincount(drawn // (2**32 // bins), minlength=bins).double()
        chi_square = ((counts - len(drawn) / bins).square() / (len(drawn) / bins)).sum().item()
        assert abs(chi_square - (bins - 1)) < 5 * math.sqrt(2 * (bins - 1))


@pytest.mark.parametrize(("p", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_and_everything_can_be_dropped(p: float, share: float) -> None:
    assert rng.keep_mask(1, torch.arange(300), torch.arange(300), p).double().mean().item() == share


def test_a_mask_of_some_rows_is_those_rows_of_the_mask() -> None:
    rows, columns = torch.arange(50), torch.arange(30)
    whole = rng.keep_mask(9, rows, columns, 0.3)
    chosen = torch.tensor([44, 3, 17])
    assert torch.equal(rng.keep_mask(9, chosen, columns[5:20], 0.3), whole[chosen, 5:20])
