"""Denoising: a text is damaged in one or several ways, and the target is the text."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megalm.data.loader import Rows
from megalm.objectives.config import Noise
from megalm.objectives.draws import Draws
from megalm.objectives.seq2seq import Tokens

Uniform = NDArray[np.float64]
"""Numbers of [0, 1)."""


@dataclass(frozen=True)
class Denoising:
    """Texts of one length, damaged: sentences permuted, then infilled, masked, deleted, rotated, as far as chosen.

    No damaged text is longer than the text. Of a sample's ``seq_length + 1`` tokens the last is left out: the next
    window begins with it. Lewis et al. 2020, section 2.2.

    Args:
        ways: what is done.
        density: the share of tokens that each of infill, mask and delete takes, rounded.
        mean_span_length: of the spans that are infilled.
        mask_id: what stands for hidden tokens, where one of the ways hides some.
        ends_sentence: by token id, whether a sentence ends with it, where sentences are permuted.
    """

    ways: Set[Noise]
    density: float
    mean_span_length: float
    mask_id: int | None
    ends_sentence: NDArray[np.bool_] | None

    def __call__(self, rows: Rows, draws: Draws, /) -> tuple[Sequence[Tokens], Sequence[Tokens]]:
        """Return the source and the target of each sample."""
        texts = rows.tokens_bs[:, :-1]
        length = texts.shape[1]
        damaged = list(texts)
        if "permute" in self.ways and self.ends_sentence is not None:
            drawn = draws.uniform("permute", length)
            damaged = [permuted(text, self.ends_sentence, u) for text, u in zip(damaged, drawn, strict=True)]
        if "infill" in self.ways and self.mask_id is not None:
            lengths = span_lengths(draws.uniform("infill lengths", 4 * length), self.mean_span_length)
            spans = [fitted(row, round(self.density * length)) for row in lengths]
            drawn = draws.uniform("infill places", length)
            damaged = [infilled(*each, self.mask_id) for each in zip(damaged, spans, drawn, strict=True)]
        if "mask" in self.ways and self.mask_id is not None:
            chosen = [self._chosen(*each) for each in zip(damaged, draws.uniform("mask", length), strict=True)]
            damaged = [np.where(hit, self.mask_id, text) for text, hit in zip(damaged, chosen, strict=True)]
        if "delete" in self.ways:
            chosen = [self._chosen(*each) for each in zip(damaged, draws.uniform("delete", length), strict=True)]
            damaged = [text[~hit] for text, hit in zip(damaged, chosen, strict=True)]
        if "rotate" in self.ways:
            begins = draws.uniform("rotate", 1)[:, 0]
            damaged = [np.roll(text, -int(u * len(text))) for text, u in zip(damaged, begins, strict=True)]
        return damaged, list(texts)

    def _chosen(self, text: Tokens, u: Uniform) -> NDArray[np.bool_]:
        """Return which tokens are taken: exactly the share, any of them alike."""
        chosen = np.zeros(len(text), np.bool_)
        chosen[u[: len(text)].argsort(kind="stable")[: round(self.density * len(text))]] = True
        return chosen


def permuted(text: Tokens, ends_sentence: NDArray[np.bool_], u: Uniform) -> Tokens:
    """Return the sentences of a text in the order of ``u``, the last one, though it may go on, among them."""
    sentences = np.split(text, np.flatnonzero(ends_sentence[text[:-1]]) + 1)
    return np.concatenate([sentences[number] for number in u[: len(sentences)].argsort(kind="stable")])


def span_lengths(u: Uniform, mean: float) -> NDArray[np.int64]:
    """Return numbers of Poisson's distribution, which is inverted."""
    numbers = np.arange(int(mean + 12 * math.sqrt(mean)) + 12)
    log_factorials = np.array([math.lgamma(number + 1) for number in numbers])
    return np.searchsorted(np.cumsum(np.exp(numbers * math.log(mean) - mean - log_factorials)), u, side="right")


def fitted(lengths: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Return the first lengths that add up to ``total``: the last is cut, and empty ones beyond ``total`` are dropped.

    So the masks are no more than the tokens that they replace.
    """
    before = np.minimum(np.concatenate([[0], lengths.cumsum()]), total)
    spans = np.diff(before)[: int((before[:-1] < total).sum())]
    spare = max(len(spans) - total, 0)
    dropped = np.flatnonzero(spans == 0)[len(np.flatnonzero(spans == 0)) - spare :]
    return np.delete(spans, dropped)


def infilled(text: Tokens, spans: NDArray[np.int64], u: Uniform, mask_id: int) -> Tokens:
    """Replace spans by one mask each: where they stand among the tokens that are kept is drawn, all orders alike.

    Args:
        text: the tokens.
        spans: the lengths.
        u: which places among kept tokens and spans are theirs.
        mask_id: the mask.
    """
    kept = len(text) - int(spans.sum())
    places = u[: kept + len(spans)].argsort(kind="stable")[: len(spans)]
    widths = np.ones(kept + len(spans), np.int64)
    widths[places] = spans
    starts = widths.cumsum() - widths
    result = text[np.minimum(starts, len(text) - 1)]
    result[places] = mask_id
    return result
