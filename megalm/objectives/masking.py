"""Which tokens of a text are hidden, and behind what."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megalm.objectives.draws import Draws


class Fates(NamedTuple):
    """What becomes of hidden tokens; the rest is left.

    Args:
        masked: the share that a mask stands for.
        replaced: that another token stands for.
    """

    masked: float
    replaced: float


OF_BERT, OF_ELECTRA = Fates(0.8, 0.1), Fates(0.85, 0.0)
"""As published; what ELECTRA's generator is to name is never another token, since it makes those itself."""


@dataclass(frozen=True)
class Masking:
    """Hides tokens (Devlin et al. 2019, section 3.1).

    Args:
        density: share of the tokens that is hidden, of those that may be.
        mask_id: the token that stands for hidden ones.
        ordinary: the ids of the tokens that stand for text, int64 [any]; only they are hidden, and stand for others.
        vocab_size: of the model.
        fates: of the hidden tokens.
    """

    density: float
    mask_id: int
    ordinary: NDArray[np.int64]
    vocab_size: int
    fates: Fates = OF_BERT

    def __call__(
        self,
        tokens_bs: NDArray[np.int64],
        may_bs: NDArray[np.bool_],
        begins_bs: NDArray[np.bool_] | None,
        draws: Draws,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the texts as they are read, and which of their tokens are hidden.

        Args:
            tokens_bs: int64 [b, s].
            may_bs: bool [b, s], of which text something may be hidden; of it special tokens never are.
            begins_bs: bool [b, s], where words begin, which are hidden whole; ``None`` hides single tokens.
            draws: of the samples.
        """
        is_ordinary = np.zeros(self.vocab_size, np.bool_)
        is_ordinary[self.ordinary] = True
        may_bs = may_bs & is_ordinary[tokens_bs]
        b, s = tokens_bs.shape
        order = draws.uniform("which are hidden", s)
        hidden = np.zeros((b, s), np.bool_)
        for sample in range(b):
            places = np.flatnonzero(may_bs[sample])
            begins = np.ones(len(places), np.bool_)
            if begins_bs is not None:
                begins[1:] = begins_bs[sample, places[1:]]
            hidden[sample, places[chosen(begins, order[sample, places], self.density)]] = True
        fate = draws.uniform("what stands for them", s)
        other = self.ordinary[(draws.uniform("which others", s) * len(self.ordinary)).astype(np.int64)]
        masked, replaced = self.fates
        read = np.where(fate < masked, self.mask_id, np.where(fate < masked + replaced, other, tokens_bs))
        return np.where(hidden, read, tokens_bs), hidden


def chosen(begins: NDArray[np.bool_], u: NDArray[np.float64], density: float) -> NDArray[np.int64]:
    """Return which tokens are hidden: words in random order, as many as do not exceed the share, and one at least.

    Args:
        begins: bool [n], where words begin; the first token does.
        u: random numbers [n]; a word's is that of its first token.
        density: share of the tokens.
    """
    if not len(begins):
        return np.zeros(0, np.int64)
    count = max(int(density * len(begins) + 0.5), 1)
    word = np.cumsum(begins) - 1
    order = u[begins].argsort(kind="stable")
    fits = np.cumsum(np.bincount(word)[order]) <= count
    fits[0] = True
    return np.flatnonzero(np.isin(word, order[fits]))
