"""Oracle: transformers' logits processors, and the frequencies that a softmax asks for, by chi-square."""

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from megalm.generation.options import Options
from megalm.generation.sampler import choose, kept, noise, penalized

NUM_DRAWS = 20_000
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -2.0], dtype=torch.float64)


def nothing_seen(logits_nv: Tensor) -> Tensor:
    return torch.zeros(logits_nv.shape, dtype=torch.bool)


def draws(options: Options, *, first_prompt: int = 0) -> Tensor:
    """Return a token for each of many prompts that have the same logits."""
    logits = LOGITS.expand(NUM_DRAWS, -1)
    prompts = torch.arange(first_prompt, first_prompt + NUM_DRAWS)
    return choose(logits, options, prompts, torch.full((NUM_DRAWS,), 5), nothing_seen(logits))


def expected(options: Options) -> Tensor:
    """Return the probabilities that transformers' processors leave."""
    chain = LogitsProcessorList([TemperatureLogitsWarper(options.temperature)])
    if options.top_k is not None:
        chain.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None:
        chain.append(TopPLogitsWarper(options.top_p))
    processed: Tensor = chain(torch.zeros(1, 1, dtype=torch.int64), LOGITS.unsqueeze(0).clone())
    return processed.softmax(-1)[0]


@pytest.mark.parametrize(
    "options",
    [
        Options(temperature=1.0),
        Options(temperature=0.5),
        Options(temperature=1.0, top_k=3),
        Options(temperature=1.3, top_p=0.8),
        Options(temperature=1.0, top_k=4, top_p=0.7),
        Options(temperature=1.0, seed=7),
    ],
    ids=lambda options: f"t{options.temperature} k{options.top_k} p{options.top_p} seed{options.seed}",
)
def test_frequencies(options: Options) -> None:
    counts = torch.bincount(draws(options), minlength=len(LOGITS)).double()
    wanted = expected(options) * NUM_DRAWS
    possible = wanted > 0
    assert counts[~possible].sum() == 0
    chi_square = float(((counts - wanted)[possible] ** 2 / wanted[possible]).sum())
    assert chi_square < 22.5  # 6 degrees of freedom: 1 in 1000


def test_a_draw_depends_on_seed_prompt_and_position_alone() -> None:
    whole = noise(3, torch.arange(6), torch.full((6,), 9), 50)
    assert torch.equal(noise(3, torch.tensor([4, 1]), torch.tensor([9, 9]), 50), whole[[4, 1]])
    assert torch.equal(noise(3, torch.tensor([4]), torch.tensor([9]), 20), whole[[4], :20])
    for other in (noise(4, torch.arange(6), torch.full((6,), 9), 50), noise(3, torch.arange(6), torch.arange(6), 50)):
        assert not (other == whole).any()
    neighbours = noise(3, torch.tensor([0, 1]), torch.tensor([6, 5]), 50)
    assert not (neighbours[0] == neighbours[1]).any()


def test_neighbouring_prompts_and_positions_are_independent() -> None:
    """A pair of draws falls into each of the 49 cells as often as if they had nothing to do with one another."""
    options = Options(temperature=1.0)
    logits = LOGITS.expand(NUM_DRAWS, -1)
    first = draws(options)
    next_position = choose(logits, options, torch.arange(NUM_DRAWS), torch.full((NUM_DRAWS,), 6), nothing_seen(logits))
    for second in (next_position, draws(options, first_prompt=1)):
        counts = torch.bincount(first * 7 + second, minlength=49).double()
        wanted = (LOGITS.softmax(-1).unsqueeze(1) * LOGITS.softmax(-1)).flatten() * NUM_DRAWS
        assert float(((counts - wanted) ** 2 / wanted).sum()) < 84.0  # 48 degrees of freedom: 1 in 1000


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(5, None), (None, 0.6), (None, 0.001), (20, 0.9), (None, 1.0), (99, None)]
)
def test_what_is_kept(top_k: int | None, top_p: float | None) -> None:
    scores = torch.randn(8, 61, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chain = LogitsProcessorList()
    if top_k is not None:
        chain.append(TopKLogitsWarper(top_k))
    if top_p is not None:
        chain.append(TopPLogitsWarper(top_p))
    assert torch.equal(kept(scores, top_k, top_p), chain(torch.zeros(8, 1, dtype=torch.int64), scores.clone()))


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_repetition_penalty(penalty: float) -> None:
    scores = torch.randn(3, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.tensor([[1, 5, 5], [0, 10, 3], [2, 2, 2]])
    seen = nothing_seen(scores).scatter(1, tokens, True)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(tokens, scores.clone())
    assert torch.equal(penalized(scores, seen, penalty), theirs)


def test_temperature_0_is_the_most_probable_token() -> None:
    scores = torch.randn(8, 61, generator=torch.Generator().manual_seed(0))
    chosen = choose(scores, Options(), torch.arange(8), torch.arange(8), nothing_seen(scores))
    assert torch.equal(chosen, scores.argmax(-1))
