"""Samples for training and evaluation: any rank can read any row of any step, and holds no state between calls."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megalm.data.config import DataConfig
from megalm.data.corpora import Cut, Reading, Sample, Samples, WindowCorpus, open_corpus
from megalm.data.meta import META, TRAIN, VALIDATION, read_meta, tokenizer_digest
from megalm.data.order import Place, SampleOrder, permuted
from megalm.errors import UserError

FIXED_ORDER = 0


@dataclass(frozen=True)
class Rows:
    """Some samples of one global batch.

    Attributes:
        tokens_bs: token ids, int64 [samples, seq_length + 1]; predict [:, 1:] from [:, :-1].
        documents_bs: the number of each token's document within its row, int32 [samples, seq_length + 1], from 0 and
            not decreasing, so that attention and positions can be reset where it changes; -1 for padding.
        samples_b: the number of each sample, int64 [samples].
        parts_bs: to which part of its document each token belongs, int8 [samples, seq_length + 1], where it has any.
        numbers_b: what the corpus says of each whole sample, int64 [samples], where it does.
    """

    tokens_bs: NDArray[np.int64]
    documents_bs: NDArray[np.int32]
    samples_b: NDArray[np.int64]
    parts_bs: NDArray[np.int8] | None = None
    numbers_b: NDArray[np.int64] | None = None


class TrainingData:
    """The samples that a run learns from: sample ``n`` is a pure function of the seed and ``n``.

    Args:
        config: the ``data`` section.
        seq_length: tokens that a sample predicts; it holds one more.
        global_batch_size: samples of a step over all ranks.
        seed: of the run.
        vocab_size: of the model.
        cut: how a corpus becomes samples, which the objective says.

    Raises:
        UserError: a corpus is absent, broken, shorter than one sample, or does not fit the tokenizer or the model.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        seq_length: int,
        global_batch_size: int,
        seed: int,
        vocab_size: int,
        cut: Cut = WindowCorpus,
    ) -> None:
        check_tokenizers(config)
        self._reading = Reading(seq_length, vocab_size, seed)
        self._global_batch_size = global_batch_size
        self._corpora: list[Samples] = []
        for number, entry in enumerate(config.train):
            key = f"data.train.{number}.path"
            corpus = open_corpus(key, entry.path, TRAIN, self._reading, number, cut)
            if corpus.num_samples < 1:
                raise UserError(
                    f"{key}: {entry.path} is too short for one sample of {seq_length + 1} tokens; add text or lower "
                    "train.seq_length."
                )
            self._corpora.append(corpus)
        sizes = [corpus.num_samples for corpus in self._corpora]
        self._order = SampleOrder.of(seed, sizes, [entry.weight for entry in config.train])

    def rows(self, step: int, first: int, count: int) -> Rows:
        """Return samples ``first`` to ``first + count`` of the global batch of a step, counted from step 0."""
        start = step * self._global_batch_size + first
        places = [self.place(n) for n in range(start, start + count)]
        read = [self._corpora[place.corpus].read(place.epoch, place.window) for place in places]
        return _rows(read, start, self._reading.seq_length)

    def place(self, n: int) -> Place:
        """Return where sample ``n`` of the run lies."""
        return self._order.place(n)


class ValidationData:
    """The held-out samples, in one fixed order that mixes all corpora, so that any first part of it is a fair one.

    What ``data.validation`` names, or else the held-out split of each directory in ``data.train``. Windows that do not
    fill ``seq_length + 1`` tokens are left out.

    Args:
        seed: only passed on to sources of the user's own.
        cut: how a corpus becomes samples.

    Attributes:
        num_samples: how many there are; 0 where nothing is held out.

    Raises:
        UserError: as for ``TrainingData``, but a split may be short or empty.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        seq_length: int,
        global_batch_size: int,
        vocab_size: int,
        seed: int = 0,
        cut: Cut = WindowCorpus,
    ) -> None:
        check_tokenizers(config)
        self._reading = Reading(seq_length, vocab_size, seed)
        self._global_batch_size = global_batch_size
        paths = {f"data.validation.{number}": path for number, path in enumerate(config.validation or [])}
        if config.validation is None:
            named = {f"data.train.{number}.path": corpus.path for number, corpus in enumerate(config.train)}
            paths = {key: path for key, path in named.items() if (Path(path) / META).is_file()}
        self._corpora = [open_corpus(key, path, VALIDATION, self._reading, -1, cut) for key, path in paths.items()]
        self._ends = list(accumulate(corpus.num_samples for corpus in self._corpora))
        self.num_samples = self._ends[-1] if self._ends else 0

    def rows(self, step: int, first: int, count: int) -> Rows:
        """Return samples ``first`` to ``first + count`` of the ``step``-th batch of held-out samples, from step 0.

        Raises:
            IndexError: there are not so many samples; the last batch may have to be a smaller one.
        """
        start = step * self._global_batch_size + first
        if start + count > self.num_samples:
            raise IndexError(f"samples {start} to {start + count} of {self.num_samples}")
        read = [self._read(permuted(n, self.num_samples, FIXED_ORDER)) for n in range(start, start + count)]
        return _rows(read, start, self._reading.seq_length)

    def _read(self, index: int) -> Sample:
        corpus = bisect_right(self._ends, index)
        before = self._ends[corpus - 1] if corpus else 0
        return self._corpora[corpus].read(0, index - before)


def _rows(read: list[Sample], start: int, seq_length: int) -> Rows:
    shape = (len(read), seq_length + 1)
    parts = [sample.parts_s for sample in read if sample.parts_s is not None]
    numbers = [sample.number for sample in read if sample.number is not None]
    return Rows(
        np.array([sample.tokens_s for sample in read], np.int64).reshape(shape),
        np.array([sample.documents_s for sample in read], np.int32).reshape(shape),
        np.arange(start, start + len(read)),
        np.array(parts, np.int8).reshape(shape) if parts else None,
        np.array(numbers, np.int64) if numbers else None,
    )


def check_tokenizers(*configs: DataConfig) -> None:
    """Refuse corpora of different tokenizers: the same token id would mean different text.

    Raises:
        UserError: two of all that the sections name differ.
    """
    made_with = {config.tokenizer: tokenizer_digest(Path(config.tokenizer)) for config in configs if config.tokenizer}
    directories = [path for config in configs for path in _paths(config) if (Path(path) / META).is_file()]
    made_with |= {path: read_meta(Path(path)).tokenizer_digest for path in directories}
    for (one, digest), (other, other_digest) in pairwise(made_with.items()):
        if digest != other_digest:
            raise UserError(
                f"data: {other} was made with another tokenizer than {one}; prepare one of them again with --tokenizer."
            )


def _paths(config: DataConfig) -> list[str]:
    return [*(corpus.path for corpus in config.train), *(config.validation or [])]
