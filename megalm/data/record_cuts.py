"""How a corpus of records becomes samples: several whole records to a sample, or one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megalm.data.corpora import Reading, Sample, check_vocabulary
from megalm.data.indexed import IndexedTokens
from megalm.data.records import Part
from megalm.errors import UserError

OPEN_SAMPLES = 256
PADDING = 0
"""The token id behind the last record of a sample; its document number -1 says that it is none."""


class PackedRecords:
    """Samples of whole records, as many as fit; see ``Cut`` in ``corpora`` for the arguments.

    Records are put, in their order, into the first of the open samples that has room for them, so that no sample breaks
    a record. One longer than a sample stands alone and loses its end; one of which nothing asked would be left is left
    out. The samples of all epochs are the same ones.

    Raises:
        UserError: no record has anything that a sample could ask.
    """

    def __init__(self, name: str, tokens: IndexedTokens, reading: Reading, key: tuple[int, ...]) -> None:
        self._name, self._tokens, self._reading = name, tokens, reading
        room = reading.seq_length + 1
        lengths_d, asked_from_d = _lengths(tokens)
        usable = np.flatnonzero(np.maximum(asked_from_d, 1) < np.minimum(lengths_d, room))
        if tokens.num_documents and not len(usable):
            raise UserError(
                f"{name} has no record of which train.seq_length={reading.seq_length} leaves a token to learn; prepare "
                "it with --records, or raise train.seq_length."
            )
        self._samples = [usable[numbers] for numbers in first_fit(np.minimum(lengths_d[usable], room), room)]
        self.num_samples = len(self._samples)

    def read(self, epoch: int, index: int) -> Sample:
        """See ``Samples.read``."""
        count = self._reading.seq_length + 1
        sample = _Blank(count)
        for number, record in enumerate(self._samples[index]):
            for part, tokens in self._tokens.parts(int(record)):
                sample.add(tokens, number, part)
        check_vocabulary(self._name, sample.tokens_s, self._reading)
        return sample.done()


@dataclass(frozen=True)
class SingleRecords:
    """A cut into samples of one record each, with the number of its label where it has one.

    Args:
        num_labels: how many labels the model knows; ``None`` for records that have none.

    A record that is too long loses the end of its given part, but that part keeps half of the sample at least.
    """

    num_labels: int | None = None

    def __call__(
        self, name: str, tokens: IndexedTokens, reading: Reading, key: tuple[int, ...]
    ) -> "SingleRecordCorpus":
        """See ``Cut`` in ``corpora``."""
        wanted = Part.ASKED if self.num_labels is None else Part.LABEL
        if tokens.num_documents and not (tokens.modes() == wanted).any():
            kinds = "pairs, instruct or chat" if self.num_labels is None else "labelled"
            raise UserError(f"{name} holds no such records; prepare it with --records {kinds}.")
        return SingleRecordCorpus(name, tokens, reading, self.num_labels)


class SingleRecordCorpus:
    """See ``SingleRecords``.

    Raises:
        UserError: a label is not one of the model's.
    """

    def __init__(self, name: str, tokens: IndexedTokens, reading: Reading, num_labels: int | None) -> None:
        self._name, self._tokens, self._reading, self._num_labels = name, tokens, reading, num_labels
        self.num_samples = tokens.num_documents

    def read(self, epoch: int, index: int) -> Sample:
        """See ``Samples.read``."""
        count = self._reading.seq_length + 1
        sample = _Blank(count)
        given, asked, label = _by_part(self._tokens.parts(index))
        room = max(count // 2, count - len(asked))
        sample.add(given[:room], 0, Part.GIVEN)
        sample.add(asked, 0, Part.ASKED)
        check_vocabulary(self._name, sample.tokens_s, self._reading)
        if self._num_labels is None:
            return sample.done()
        if label is None or label >= self._num_labels:
            raise UserError(
                f"{self._name}: record {index} has {'no label' if label is None else f'label {label}'}, and "
                f"model.num_labels is {self._num_labels}; give the model as many as the data's meta.json names."
            )
        return sample.done(label)


def first_fit(lengths_n: NDArray[np.int64], room: int) -> list[list[int]]:
    """Put things into boxes of one size: each into the first of the open boxes that has room for it.

    Only the newest boxes are open, so that the work for each thing is bounded; a box never changes by what comes after
    those that it was open for.

    Args:
        lengths_n: of the things in their order, each at most ``room``.
        room: of a box.

    Returns:
        The numbers of the things in each box, boxes in the order of their first things.
    """
    boxes: list[list[int]] = []
    left = np.zeros(len(lengths_n), np.int64)
    for number, length in enumerate(lengths_n.tolist()):
        oldest = max(len(boxes) - OPEN_SAMPLES, 0)
        fits = np.flatnonzero(left[oldest : len(boxes)] >= length)
        if not len(fits):
            left[len(boxes)] = room
            boxes.append([])
        box = oldest + int(fits[0]) if len(fits) else len(boxes) - 1
        boxes[box].append(number)
        left[box] -= length
    return boxes


class _Blank:
    """A sample that is being filled."""

    def __init__(self, count: int) -> None:
        self.tokens_s = np.full(count, PADDING, np.int64)
        self._documents_s = np.full(count, -1, np.int32)
        self._parts_s = np.zeros(count, np.int8)
        self._filled = 0

    def add(self, tokens: NDArray[np.int64], document: int, part: int) -> None:
        end = min(self._filled + len(tokens), len(self.tokens_s))
        place = slice(self._filled, end)
        self.tokens_s[place] = tokens[: end - self._filled]
        self._documents_s[place], self._parts_s[place] = document, part
        self._filled = end

    def done(self, number: int | None = None) -> Sample:
        return Sample(self.tokens_s, self._documents_s, self._parts_s, number)


def _by_part(parts: Sequence[tuple[int, NDArray[np.int64]]]) -> tuple[NDArray[np.int64], NDArray[np.int64], int | None]:
    """Return what is given, what is asked, and the label of a record: each in one."""
    none = np.zeros(0, np.int64)
    given, asked = (np.concatenate([none, *(t for mode, t in parts if mode == part)]) for part in (0, 1))
    labels = [int(tokens[0]) for mode, tokens in parts if mode == Part.LABEL]
    return given, asked, labels[0] if labels else None


def _lengths(tokens: IndexedTokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how long each record is, and where in it the first token lies that is asked (its length if none is)."""
    lengths, asked, boundaries = tokens.sequence_lengths(), tokens.modes() == Part.ASKED, tokens.boundaries()
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    starts_d, ends_d = ends[boundaries[:-1]], ends[boundaries[1:]]
    first_d = np.full(tokens.num_documents, ends[-1])
    document_of = np.repeat(np.arange(tokens.num_documents), np.diff(boundaries))
    here = asked & (lengths > 0)
    np.minimum.at(first_d, document_of[here], ends[:-1][here])
    return ends_d - starts_d, np.minimum(first_d, ends_d) - starts_d
