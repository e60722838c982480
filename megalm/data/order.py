"""The order of samples: sample ``n`` of a run is a pure function of the seed and ``n``.

Nothing is stored and nothing is shuffled in memory: each rank computes where any sample lies, whatever the layout, and
a resume needs one integer. Three steps lead from ``n`` to a window of a corpus:

1. *mixture*: the samples are dealt to the corpora as evenly as whole numbers allow, so that after any number of
   samples each corpus has had its share to within the number of corpora;
2. *epoch*: sample ``j`` of a corpus with ``w`` windows is number ``j mod w`` of epoch ``j div w``;
3. *permutation*: a keyed permutation of ``[0, w)``, another one each epoch, says which window that is.

The permutation is a Feistel network over pairs of digits in base ``ceil(sqrt(w))``, walked until it lands below ``w``:
Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

ROUNDS = 6
WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Place:
    """Where a sample lies: window ``window`` of epoch ``epoch`` of corpus number ``corpus``."""

    corpus: int
    epoch: int
    window: int


@dataclass(frozen=True)
class SampleOrder:
    """The order of a run's samples over a mixture of corpora.

    Attributes:
        seed: of the run.
        windows: samples that an epoch of each corpus holds.
        shares: the weights of the corpora as whole numbers, in the exact ratio of the weights.
    """

    seed: int
    windows: tuple[int, ...]
    shares: tuple[int, ...]

    @classmethod
    def of(cls, seed: int, windows: Sequence[int], weights: Sequence[float]) -> Self:
        """Make the order for corpora of these sizes and weights; all sizes are at least 1, all weights positive."""
        exact = [Fraction(weight) for weight in weights]
        unit = math.lcm(*(weight.denominator for weight in exact))
        return cls(seed, tuple(windows), tuple(int(weight * unit) for weight in exact))

    def place(self, n: int) -> Place:
        """Return where sample ``n`` of the run lies, counted from 0."""
        corpus, drawn = deal(n, self.shares)
        epoch, index = divmod(drawn, self.windows[corpus])
        return Place(corpus, epoch, permuted(index, self.windows[corpus], self.seed, corpus, epoch))


def deal(n: int, shares: Sequence[int]) -> tuple[int, int]:
    """Return which corpus sample ``n`` is drawn from, and how many samples before it were.

    The first corpus takes its share of all samples, evenly spread; the second its share of what is left, and so on.
    """
    total = sum(shares)
    for corpus, share in enumerate(shares[:-1]):
        before, after = n * share // total, (n + 1) * share // total
        if after > before:
            return corpus, before
        n -= before
        total -= share
    return len(shares) - 1, n


def permuted(index: int, size: int, *key: int) -> int:
    """Return the image of ``index`` under the permutation of ``[0, size)`` that the key names."""
    base = math.isqrt(size - 1) + 1 if size > 1 else 1
    round_keys = keyed_words(ROUNDS, *key)
    while True:
        high, low = divmod(index, base)
        for round_key in round_keys:
            high, low = low, (high + _scramble(low ^ round_key)) % base
        index = high * base + low
        if index < size:
            return index


def keyed_words(count: int, *key: int) -> tuple[int, ...]:
    """Return up to 8 numbers of 64 bits that depend on every integer of the key."""
    name = ",".join(str(part) for part in key).encode()
    return struct.unpack(f"<{count}Q", hashlib.blake2b(name, digest_size=8 * count).digest())


def _scramble(word: int) -> int:
    """Return 64 well-mixed bits (the finalizer of splitmix64: Steele, Lea and Flood, 2014)."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & WORD
    return word ^ word >> 31
