"""How well a model predicts a text: its loss a token, each token with as much context as the windows give."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from megalm.batch import IGNORED, MicroBatch
from megalm.generation.model import LanguageModel
from megalm.generation.reader import batch_of


class Window(NamedTuple):
    """Tokens that are read together.

    Args:
        first: the position of the first of them in the text.
        last: that of the last one, which is only predicted.
        scored_from: the first position that is predicted for the score; earlier ones are context.
    """

    first: int
    last: int
    scored_from: int


def windows(num_tokens: int, length: int, stride: int) -> Iterator[Window]:
    """Cut a text into windows, so that each token but the first is predicted once.

    Every window but the first moves on by ``stride``, so its tokens are predicted from at least ``length - stride``
    before them. ::

        length 4, stride 2:    0 1 2 3 4          predicts 1 2 3 4
                                   2 3 4 5 6      predicts 5 6

    Args:
        num_tokens: of the text.
        length: tokens that a window reads; it holds one more, to predict.
        stride: at most ``length``.
    """
    done = 0
    while done < num_tokens - 1:
        last = min(done + (length if done == 0 else stride), num_tokens - 1)
        yield Window(max(0, last - length), last, done + 1)
        done = last


@dataclass(frozen=True)
class Score:
    """What a model makes of a text.

    Args:
        tokens: how many were predicted.
        loss: the sum of their negative log probabilities, in nats.
    """

    tokens: int
    loss: float

    @property
    def mean(self) -> float:
        """The loss a token."""
        return self.loss / self.tokens

    @property
    def perplexity(self) -> float:
        """What the model is as unsure as: so many tokens, equally probable."""
        return math.exp(self.mean)


def score(
    model: LanguageModel,
    tokens_of: Callable[[int, int], Sequence[int]],
    num_tokens: int,
    length: int,
    stride: int,
    batch_size: int,
) -> Score:
    """Predict a text, all ranks together.

    Args:
        model: what predicts.
        tokens_of: returns the tokens from one position to before another.
        num_tokens: of the text.
        length: see ``windows``.
        stride: see ``windows``.
        batch_size: windows that are read at a time.
    """
    total = 0.0
    waiting: list[Window] = []
    for window in windows(num_tokens, length, stride):
        waiting.append(window)
        if len(waiting) == batch_size:
            total += model.loss(_batch(waiting, tokens_of, model))
            waiting = []
    if waiting:
        total += model.loss(_batch(waiting, tokens_of, model))
    return Score(num_tokens - 1, total)


def _batch(
    together: Sequence[Window], tokens_of: Callable[[int, int], Sequence[int]], model: LanguageModel
) -> MicroBatch:
    texts = [tokens_of(window.first, window.last + 1) for window in together]
    batch = batch_of([text[:-1] for text in texts], [0] * len(texts), model.mesh.device)
    labels_bs = batch.labels_bs.clone()
    for row, (window, text) in enumerate(zip(together, texts, strict=True)):
        context = window.scored_from - 1 - window.first
        labels_bs[row, context : len(text) - 1] = torch.tensor(text[context + 1 :], device=labels_bs.device)
    assert int((labels_bs != IGNORED).sum()) == sum(window.last - window.scored_from + 1 for window in together)
    return replace(batch, labels_bs=labels_bs, loss_scale=1.0)
