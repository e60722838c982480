"""Oracle: cross entropy of the saved model's plain forward, token by token; windows laid out by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from megalm.generation.asked import asked
from megalm.generation.opened import open_model
from megalm.generation.perplexity import Score, Window, score, windows
from megalm.mesh import Mesh
from tests.generation.trained import VOCAB_SIZE, plain_logits, trained
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, LLAMA

TOKENS = torch.randint(0, VOCAB_SIZE, (70,), generator=torch.Generator().manual_seed(5)).tolist()
CASES = ((16, 16, 3), (16, 4, 2), (16, 1, 50), (48, 48, 1), (7, 5, 8))


def test_windows() -> None:
    assert list(windows(7, 4, 2)) == [Window(0, 4, 1), Window(2, 6, 5)]
    assert list(windows(9, 4, 4)) == [Window(0, 4, 1), Window(4, 8, 5)]
    assert list(windows(10, 4, 4)) == [Window(0, 4, 1), Window(4, 8, 5), Window(5, 9, 9)]
    assert list(windows(3, 4, 4)) == [Window(0, 2, 1)]
    assert list(windows(1, 4, 4)) == []


@pytest.mark.parametrize("num_tokens", [2, 7, 8, 9, 31])
@pytest.mark.parametrize(("length", "stride"), [(4, 4), (4, 3), (8, 1), (40, 40)])
def test_each_token_is_predicted_once_and_with_its_context(num_tokens: int, length: int, stride: int) -> None:
    scored = [place for window in windows(num_tokens, length, stride) for place in range(window[2], window[1] + 1)]
    assert scored == list(range(1, num_tokens))
    for window in windows(num_tokens, length, stride):
        assert window.last - window.first <= length
        assert window.first == 0 or window.scored_from - window.first > length - stride


def expected(model: nn.Module, length: int, stride: int) -> float:
    """Return the loss of all tokens but the first, each predicted as the windows say."""
    total = 0.0
    with torch.no_grad():
        for first, last, scored_from in windows(len(TOKENS), length, stride):
            losses = -plain_logits(model, TOKENS[first:last]).log_softmax(-1)
            total += sum(float(losses[place - 1 - first, TOKENS[place]]) for place in range(scored_from, last + 1))
    return total


def scored(directory: Path, overrides: list[str], mesh: Mesh) -> list[Score]:
    model = open_model(directory, overrides, mesh)
    return [score(model, lambda first, end: TOKENS[first:end], len(TOKENS), *case) for case in CASES]


def scored_by_rank(_: RankContext, directory: Path, overrides: list[str]) -> list[Score]:
    return scored(directory, overrides, Mesh.build(asked(overrides).layout, timeout_s=30))


@pytest.mark.parametrize(
    ("name", "overrides"), [(GPT2, []), (LLAMA, []), (GPT2, ["layout.tp=2", "layout.pp=2"])], ids=["gpt2", "llama", "4"]
)
def test_scores(ranks: RankPool, tmp_path: Path, name: str, overrides: list[str]) -> None:
    _, model = trained(tmp_path, name)
    wanted = [expected(model, length, stride) for length, stride, _ in CASES]
    found = ranks.run(4, scored_by_rank, tmp_path, overrides) if overrides else [scored(tmp_path, [], Mesh.alone())]
    for each in found:
        assert [one.tokens for one in each] == [len(TOKENS) - 1] * len(CASES)
        assert [one.loss for one in each] == pytest.approx(wanted, rel=1e-10)


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    assert Score(4, 4 * 2.0).perplexity == pytest.approx(7.38905609893065)
