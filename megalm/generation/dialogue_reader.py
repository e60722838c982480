"""A dialogue, read on from where its last answer ended."""

from collections.abc import Sequence
from itertools import takewhile

from torch import Tensor

from megalm.generation.model import LanguageModel
from megalm.generation.reader import SequenceReader
from megalm.kv_cache import KeyValueCache

SPARE = 2
"""How much longer than needed the memory of a sequence is made, so that few turns of a dialogue are read again."""


class DialogueReader(SequenceReader):
    """A ``Reader`` that is begun with one prompt after another, and reads of each only what is new.

    Args:
        model: what reads.
        max_new_tokens: how many tokens will follow each prompt at most.
    """

    def __init__(self, model: LanguageModel, max_new_tokens: int) -> None:
        """See the class."""
        super().__init__(model, max_new_tokens)
        self._read_tokens: list[list[int]] = []
        self._room = 0

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Reader``; of the sequences that were read last, the one that has most in common is read on."""
        (prompt,) = prompts
        needed = len(prompt) + self._max_new_tokens
        if not self._read_tokens or needed > self._room:
            self._room = SPARE * needed
            self._cache, kept = KeyValueCache(1, self._room), 0
        else:
            common = [_common(tokens, prompt) for tokens in self._read_tokens]
            kept = min(max(common), len(prompt) - 1)
            self._cache.select([common.index(max(common))])
            self._cache.cut([kept])
        self._read_tokens = [list(prompt)]
        return self._read([prompt[kept:]])

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``Reader``."""
        self._read_tokens = [[*self._read_tokens[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return super().go_on(parents, tokens)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
