"""The loop: scores from the model, tokens from the sampler or the search, until every continuation has ended."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from megalm.generation.beam import BeamSearch, Ends
from megalm.generation.options import Options
from megalm.generation.sampler import choose, penalized

Told = Callable[[int, Sequence[int]], None]
"""Is told the number of a prompt, and new tokens of its continuation."""


class Reader(Protocol):
    """A model that reads sequences of any lengths side by side."""

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts; return the logits [prompts, vocabulary] of the token after each."""

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Return the next logits, where sequence i is now what was sequence ``parents[i]``, followed by ``tokens[i]``.

        Sequences that are nobody's parent are forgotten.
        """


def generate(
    reader: Reader,
    prompts: Sequence[Sequence[int]],
    options: Options,
    ends: Ends = lambda tokens: False,
    told: Told = lambda prompt, tokens: None,
    first_number: int = 0,
) -> list[list[int]]:
    """Return the continuation of each prompt, with the token that ended it.

    Args:
        reader: the model.
        prompts: token ids, at least one each.
        options: how to choose.
        ends: whether a continuation ends with its last token.
        told: hears of tokens as they are chosen; of a search, when it is over.
        first_number: the number of the first prompt, which its draws depend on.
    """
    with torch.inference_mode():
        if options.num_beams > 1:
            return _searched(reader, prompts, options, ends, told)
        return _chosen(reader, prompts, options, ends, told, first_number)


def _chosen(
    reader: Reader, prompts: Sequence[Sequence[int]], options: Options, ends: Ends, told: Told, first_number: int
) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    live = list(range(len(prompts)))
    logits = reader.begin(prompts)
    seen = _seen(prompts, logits)
    while True:
        numbers = torch.tensor(live, device=logits.device) + first_number
        positions = torch.tensor([len(prompts[each]) + len(found[each]) for each in live], device=logits.device)
        chosen = choose(logits, options, numbers, positions, seen)
        seen.scatter_(1, chosen.unsqueeze(1), True)
        for each, token in zip(live, chosen.tolist(), strict=True):
            found[each].append(token)
            told(each, [token])
        parents = [
            row for row, each in enumerate(live) if len(found[each]) < options.max_new_tokens and not ends(found[each])
        ]
        live = [live[row] for row in parents]
        if not live:
            return found
        seen = seen[parents]
        logits = reader.go_on(parents, [found[each][-1] for each in live])


def _searched(
    reader: Reader, prompts: Sequence[Sequence[int]], options: Options, ends: Ends, told: Told
) -> list[list[int]]:
    searches = [BeamSearch(options.num_beams, options.max_new_tokens, ends) for _ in prompts]
    found: list[list[int]] = [[] for _ in prompts]
    logits = reader.begin(prompts)
    seen = _seen(prompts, logits)
    while True:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scores = penalized(wide.log_softmax(-1), seen, options.repetition_penalty)
        parents: list[int] = []
        tokens: list[int] = []
        row = 0
        for number, search in enumerate(searches):
            count = len(search.beams)
            if not count:
                continue
            for parent, token in search.go_on(scores[row : row + count]):
                parents.append(row + parent)
                tokens.append(token)
            row += count
            if not search.beams:
                found[number] = search.best()
                told(number, found[number])
        if not parents:
            return found
        seen = seen[parents].scatter_(1, torch.tensor(tokens, device=seen.device).unsqueeze(1), True)
        logits = reader.go_on(parents, tokens)


def _seen(prompts: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt, device=logits.device)] = True
    return seen
