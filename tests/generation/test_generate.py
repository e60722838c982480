"""Oracle: transformers' generate on the same weights, one prompt at a time, token for token."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from megalm.generation.generate import generate
from megalm.generation.options import Options
from tests.generation.by_transformers import Rereading, generated, tiny_model

PROMPTS = [[5, 7, 3], [4], [8, 8, 9, 6, 2, 3]]
VOCAB_SIZE = 11
CASES = {
    "greedy": Options(max_new_tokens=12),
    "greedy, repetition penalty": Options(max_new_tokens=12, repetition_penalty=1.8),
    "2 beams": Options(max_new_tokens=8, num_beams=2),
    "5 beams": Options(max_new_tokens=8, num_beams=5),
    "4 beams, repetition penalty": Options(max_new_tokens=8, num_beams=4, repetition_penalty=1.5),
}


@pytest.mark.parametrize(("name", "seed"), [(name, number % 2) for number, name in enumerate(CASES)])
def test_continuations(name: str, seed: int) -> None:
    options, model = CASES[name], tiny_model(seed, VOCAB_SIZE)
    without_end = generate(Rereading(model), PROMPTS, options)
    assert without_end == [generated(model, prompt, options, None) for prompt in PROMPTS]
    ended = False
    for end in {without_end[0][3], without_end[2][-1]}:  # tokens that it likes to say
        found = generate(Rereading(model), PROMPTS, options, lambda tokens, end=end: tokens[-1] == end)  # type: ignore[misc]
        assert found == [generated(model, prompt, options, end) for prompt in PROMPTS]
        ended = ended or any(len(tokens) < options.max_new_tokens for tokens in found)
    assert ended


def test_draws_do_not_depend_on_the_batch() -> None:
    reader = Rereading(tiny_model(vocab_size=61))
    options = Options(max_new_tokens=15, temperature=1.5, top_k=20)
    together = generate(reader, PROMPTS, options, lambda tokens: tokens[-1] < 9)
    alone = [
        generate(reader, [prompt], options, lambda tokens: tokens[-1] < 9, first_number=number)[0]
        for number, prompt in enumerate(PROMPTS)
    ]
    assert together == alone
    assert len({len(tokens) for tokens in together}) > 1
    assert generate(reader, [PROMPTS[0]] * 2, options)[0] != generate(reader, [PROMPTS[0]] * 2, options)[1]


@pytest.mark.parametrize("options", [Options(max_new_tokens=9), Options(max_new_tokens=9, num_beams=3)])
def test_all_tokens_are_told(options: Options) -> None:
    told: list[list[int]] = [[] for _ in PROMPTS]

    def hear(prompt: int, tokens: Sequence[int]) -> None:
        told[prompt].extend(tokens)

    assert generate(Rereading(tiny_model()), PROMPTS, options, told=hear) == told


class ByTable:
    """A model whose next logits depend on the last token only."""

    def __init__(self, table_vv: Tensor) -> None:
        self._table_vv = table_vv.log()

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        return self._table_vv[[prompt[-1] for prompt in prompts]]

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        return self._table_vv[list(tokens)]


def test_a_search_finds_what_greed_misses() -> None:
    """From 0 the greedy way is 1 (0.6), then at best 0.4; by 2 (0.4) a sure token follows: 0.24 against 0.4."""
    table = torch.tensor([[0.0, 0.6, 0.4, 0.0], [0.3, 0.3, 0.4, 0.0], [0.0, 0.0, 0.0, 1.0], [0.25] * 4]) + 1e-9
    assert generate(ByTable(table), [[0]], Options(max_new_tokens=2)) == [[1, 2]]
    assert generate(ByTable(table), [[0]], Options(max_new_tokens=2, num_beams=2)) == [[2, 3]]


def test_beams_go_on_though_many_tokens_end() -> None:
    """After 0 the best token that goes on is 8, and the next one, 7, is only the fifth best: after 7 a sure 0 ends."""
    table = torch.full((9, 9), 0.111, dtype=torch.float64)
    table[0] = torch.tensor([0.01, 0.19, 0.18, 0.17, 0.01, 0.01, 0.01, 0.16, 0.2])
    table[7] = torch.tensor([1.0] + [1e-9] * 8)
    found = generate(ByTable(table), [[0]], Options(max_new_tokens=6, num_beams=2), lambda tokens: tokens[-1] < 7)
    assert found == [[7, 0]]
