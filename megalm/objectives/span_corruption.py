"""Span corruption: spans of a text are hidden behind sentinels, and the target says what each of them hides."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from megalm.data.loader import Rows
from megalm.objectives.draws import Draws
from megalm.objectives.pair_lengths import SpanSizes
from megalm.objectives.seq2seq import Tokens


@dataclass(frozen=True)
class SpanCorruption:
    """Texts of one length as pairs: ``a b c d e f`` becomes ``a S0 e S1``, and ``S0 b c d S1 f`` of it.

    A text begins with a token that is read and ends with a hidden span; every way to cut it so into as many spans is as
    likely as any other. Of a sample's ``seq_length + 1`` tokens the last is left out: the next window begins with it.
    Raffel et al. 2020, section 3.1.4.

    Args:
        sizes: how much is hidden.
        sentinels: a token for each span.
    """

    sizes: SpanSizes
    sentinels: Tokens

    def __call__(self, rows: Rows, draws: Draws, /) -> tuple[Sequence[Tokens], Sequence[Tokens]]:
        """Return the source and the target of each sample."""
        sizes = self.sizes
        hidden_bn = cut(draws.order("hidden spans", sizes.hidden - 1), sizes.hidden, sizes.spans)
        num_read = sizes.length - sizes.hidden
        read_bn = cut(draws.order("read spans", num_read - 1), num_read, sizes.spans)
        sources, targets = [], []
        for text, hidden_n, read_n in zip(rows.tokens_bs[:, :-1], hidden_bn, read_bn, strict=True):
            edges = np.concatenate([[0], np.stack([read_n, hidden_n], 1).ravel().cumsum()])
            spans = [text[start:stop] for start, stop in pairwise(edges)]
            marks = self.sentinels[: sizes.spans, np.newaxis]
            sources.append(np.concatenate([part for pair in zip(spans[::2], marks, strict=True) for part in pair]))
            targets.append(np.concatenate([part for pair in zip(marks, spans[1::2], strict=True) for part in pair]))
        return sources, targets


def cut(order_bn: NDArray[np.int64], total: int, parts: int) -> NDArray[np.int64]:
    """Return lengths [b, parts], at least 1 each, that add up to ``total``.

    Args:
        order_bn: a permutation of the ``total - 1`` places between neighbours, for each sample; the first ones are cut.
        total: what is cut.
        parts: into how many.
    """
    cuts = np.sort(order_bn[:, : parts - 1], -1) + 1
    return np.diff(cuts, prepend=0, append=total)
