"""Beam search: the most probable continuation among those that stay in sight.

At each token the ``num_beams`` best continuations go on; what ends among the best is kept aside, and judged by the mean
log probability of its tokens. The search is over when no continuation that goes on can become better than the worst
that is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

Ends = Callable[[Sequence[int]], bool]
"""Whether a continuation ends with its last token."""


@dataclass(frozen=True)
class _Beam:
    tokens: tuple[int, ...]
    score: float


class BeamSearch:
    """The search for one prompt.

    Args:
        num_beams: how many continuations go on at each token.
        max_new_tokens: the longest continuation.
        ends: which ones end earlier.

    Attributes:
        beams: those that go on, best first.
    """

    def __init__(self, num_beams: int, max_new_tokens: int, ends: Ends) -> None:
        """See the class."""
        self._num_beams, self._max_new_tokens, self._ends = num_beams, max_new_tokens, ends
        self.beams = [_Beam((), 0.0)]
        self._ended: list[_Beam] = []

    def go_on(self, log_probabilities_nv: Tensor) -> list[tuple[int, int]]:
        """Take the next token.

        Args:
            log_probabilities_nv: [beams, vocabulary], of the token after each of ``beams``.

        Returns:
            Of each beam that goes on: the position of the beam that it continues, and its new token. None when the
            search is over.
        """
        going: list[tuple[int, int]] = []
        beams: list[_Beam] = []
        for place, (parent, token, score) in enumerate(self._candidates(log_probabilities_nv)):
            beam = _Beam((*self.beams[parent].tokens, token), score)
            at_end = len(beam.tokens) == self._max_new_tokens or self._ends(beam.tokens)
            if at_end and place < self._num_beams:
                self._ended.append(_Beam(beam.tokens, score / len(beam.tokens)))
            elif not at_end:
                going.append((parent, token))
                beams.append(beam)
            longest = len(beam.tokens) == self._max_new_tokens
            if len(beams) == self._num_beams or (longest and place + 1 >= self._num_beams):
                break
        self._ended = sorted(self._ended, key=lambda beam: -beam.score)[: self._num_beams]
        if not beams or self._is_decided(beams[0]):
            self.beams = []
            return []
        self.beams = beams
        return going

    def best(self) -> list[int]:
        """Return the best continuation, once the search is over."""
        return list(self._ended[0].tokens)

    def _candidates(self, log_probabilities_nv: Tensor) -> Iterator[tuple[int, int, float]]:
        """Yield position of the beam, token and score of the continuations by one token, best first."""
        scores = log_probabilities_nv.new_tensor([beam.score for beam in self.beams])
        total = (log_probabilities_nv + scores.unsqueeze(1)).flatten()
        done, count = 0, 2 * self._num_beams
        while done < total.numel():
            best = total.topk(min(count, total.numel()))
            for score, index in zip(best.values[done:].tolist(), best.indices[done:].tolist(), strict=True):
                yield *divmod(index, log_probabilities_nv.shape[1]), score
            done, count = len(best.indices), 4 * count

    def _is_decided(self, best: _Beam) -> bool:
        full = len(self._ended) == self._num_beams
        return full and best.score / len(best.tokens) <= self._ended[-1].score
