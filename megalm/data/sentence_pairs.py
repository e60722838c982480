"""A corpus as pairs: two runs of sentences, the second following the first or taken from another document."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megalm.data.corpora import FIRST_LOOK, Reading, Sample, check_vocabulary
from megalm.data.indexed import IndexedTokens
from megalm.data.order import keyed_words
from megalm.errors import UserError

FOLLOWS, DOES_NOT = 0, 1
"""The number of a sample: whether its second part follows the first."""

SHORTEST = 3
"""Tokens of the shortest document that is read: two, and the one that ends it."""

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Frame:
    """The tokens that stand around the parts of a sample.

    Args:
        first: before the first part.
        end: after each part.
        padding: after the last, up to the length of a sample.
        end_of_document: ends each document of the corpus, and is no part of a sentence.
    """

    first: int
    end: int
    padding: int
    end_of_document: int


class _Window(NamedTuple):
    """A span of one document, in tokens of the whole corpus."""

    start: int
    stop: int


class SentencePairs:
    """Pairs of a corpus on disk.

    Each document is cut into windows, as even as its sentences allow, that fit into a sample. In half of an epoch's
    samples a window is parted between two sentences; in the others its first part stands before sentences of another
    document, of about as many tokens. Where a window is parted, and what follows, differs from epoch to epoch.

    Args:
        name: for messages.
        tokens: the corpus.
        reading: a sample has ``seq_length`` tokens, and one more that nobody reads.
        key: what the pairs depend on beside epoch and sample.
        frame: what stands around the parts.
        ends_v: bool by token id, whether a sentence ends with the token.

    Raises:
        UserError: there are fewer than two documents, samples are too short, or an id is not in the vocabulary.
    """

    def __init__(
        self,
        name: str,
        tokens: IndexedTokens,
        reading: Reading,
        key: tuple[int, ...],
        *,
        frame: Frame,
        ends_v: NDArray[np.bool_],
    ) -> None:
        self._name, self._tokens, self._reading, self._key = name, tokens, reading, key
        self._frame, self._ends_v = frame, ends_v
        self._room = reading.seq_length - 3
        lengths = tokens.document_lengths()
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self._documents = np.flatnonzero(lengths >= SHORTEST)
        self._starts, self._lengths = starts[self._documents], lengths[self._documents]
        counts = -(-self._lengths // max(self._room, 1))
        self._last_windows = np.cumsum(counts)
        self.num_samples = int(self._last_windows[-1]) if len(counts) else 0
        if self._room < 2:
            raise UserError(
                f"train.seq_length={reading.seq_length} has no room for a pair and the three tokens around it; give 5 "
                "or more."
            )
        if len(self._documents) == 1:
            raise UserError(
                f"{name} has one document, and a pair that does not belong together needs two; prepare more files, or "
                "set objective.nsp=false."
            )
        check_vocabulary(name, tokens.tokens(0, FIRST_LOOK), reading)

    def read(self, epoch: int, index: int) -> Sample:
        """See ``Samples.read``."""
        where, whether, which = keyed_words(3, *self._key, epoch, index)
        document, window = self._window(index)
        text = self._text(window)
        cut = self._cut(text, where)
        follows = whether % 2 == 0
        second = text[cut:] if follows else self._of_another(document, len(text) - cut, which)
        return self._sample(text[:cut], self._whole_sentences(second), FOLLOWS if follows else DOES_NOT)

    def _window(self, index: int) -> tuple[int, _Window]:
        """Return a window, and the number of its document among those that are read."""
        document = int(np.searchsorted(self._last_windows, index, side="right"))
        before = int(self._last_windows[document - 1]) if document else 0
        count, number = int(self._last_windows[document]) - before, index - before
        return document, _Window(self._border(document, number, count), self._border(document, number + 1, count))

    def _border(self, document: int, number: int, count: int) -> int:
        """Return where window ``number`` of a document begins: where a sentence does, or evenly if none does."""
        start, length = int(self._starts[document]), int(self._lengths[document])
        even = start + number * length // count
        if number in (0, count):
            return even
        room = start + (number + 1) * length // count - 2 - even
        ends = np.flatnonzero(self._ends_v[self._read(even - 1, room + 1)])
        return even + int(ends[0]) if len(ends) else even

    def _text(self, window: _Window) -> Tokens:
        text = self._read(window.start, min(window.stop - window.start, self._room + 1))
        return (text[:-1] if text[-1] == self._frame.end_of_document else text)[: self._room]

    def _cut(self, text: Tokens, word: int) -> int:
        """Return after how many tokens a window is parted: between two sentences, or anywhere if it is one."""
        ends = np.flatnonzero(self._ends_v[text[:-1]]) + 1
        return int(ends[word % len(ends)]) if len(ends) else 1 + word % (len(text) - 1)

    def _of_another(self, document: int, room: int, word: int) -> Tokens:
        """Return up to ``room`` tokens from the beginning of a window of another document, each window as likely."""
        first = int(self._last_windows[document - 1]) if document else 0
        own = int(self._last_windows[document]) - first
        index = word % (self.num_samples - own)
        other, window = self._window(index if index < first else index + own)
        stop = int(self._starts[other] + self._lengths[other])
        return self._text(_Window(window.start, stop))[:room]

    def _whole_sentences(self, text: Tokens) -> Tokens:
        """Leave out a sentence that is cut off, so that its end does not tell where the text is from."""
        ends = np.flatnonzero(self._ends_v[text])
        return text[: ends[-1] + 1] if len(ends) else text

    def _sample(self, first: Tokens, second: Tokens, number: int) -> Sample:
        frame, length = self._frame, self._reading.seq_length + 1
        tokens = np.full(length, frame.padding, np.int64)
        parts, documents = np.zeros(length, np.int8), np.full(length, -1, np.int32)
        middle, end = len(first) + 2, len(first) + len(second) + 3
        tokens[:end] = [frame.first, *first, frame.end, *second, frame.end]
        parts[middle:end], documents[:end] = 1, 0
        return Sample(tokens, documents, parts, number)

    def _read(self, start: int, count: int) -> Tokens:
        tokens = self._tokens.tokens(start, count)
        check_vocabulary(self._name, tokens, self._reading)
        return tokens
