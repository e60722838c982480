"""Opening what ``data.train[].path`` names, and reading samples from it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from megalm import registry
from megalm.data.indexed import IndexedTokens, pair
from megalm.data.meta import META, read_meta
from megalm.data.order import keyed_words
from megalm.data.records import Part
from megalm.errors import UserError

FIRST_LOOK = 1 << 20


class Source(Protocol):
    """A source of the user's own: ``path: package.module:name`` names a callable ``(seq_length, seed) -> Source``."""

    def __len__(self) -> int:
        """Return the number of samples of an epoch."""

    def __getitem__(self, index: int, /) -> NDArray[np.integer[Any]]:
        """Return sample ``index``, integers [seq_length + 1]."""


class Sample(NamedTuple):
    """One sample.

    Attributes:
        tokens_s: token ids, int64 [seq_length + 1].
        documents_s: the number of each token's document within the sample, int32 [seq_length + 1]; -1 for padding.
        parts_s: to which part of its document each token belongs, int8 [seq_length + 1], where documents have parts.
        number: what the corpus says of the whole sample, where it does: a class, or whether its parts belong together.
    """

    tokens_s: NDArray[np.int64]
    documents_s: NDArray[np.int32]
    parts_s: NDArray[np.int8] | None = None
    number: int | None = None


class Samples(Protocol):
    """A corpus seen as the samples of an epoch.

    Attributes:
        num_samples: the samples of an epoch, the same in every epoch.
    """

    num_samples: int

    def read(self, epoch: int, index: int) -> Sample:
        """Return a sample.

        Raises:
            UserError: a token id is not in the vocabulary of the model.
        """


@dataclass(frozen=True)
class Reading:
    """How a run reads its corpora.

    Attributes:
        seq_length: tokens that a sample predicts; it holds one more.
        vocab_size: of the model.
        seed: of the run.
    """

    seq_length: int
    vocab_size: int
    seed: int


def first_token(key: tuple[int, ...], epoch: int, spare: int) -> int:
    """Return where the windows of an epoch begin, so that it is not always the same tail that is left over.

    Args:
        key: what it depends on beside the epoch; empty for windows that never move.
        epoch: which.
        spare: tokens that the windows leave over.
    """
    return keyed_words(1, *key, epoch)[0] % (spare + 1) if key else 0


class WindowCorpus:
    """The windows of ``seq_length + 1`` tokens of a corpus on disk; neighbours share one token.

    The windows of an epoch leave fewer than ``seq_length`` tokens over. Each epoch begins at another offset, so that it
    is not always the same tail that is left over.

    Args:
        name: for messages.
        key: the integers that the offsets depend on besides the epoch; empty for windows that never move.

    Raises:
        UserError: a token is not in the vocabulary of the model, or the corpus holds numbers that are no tokens.
    """

    def __init__(self, name: str, tokens: IndexedTokens, reading: Reading, key: tuple[int, ...]) -> None:
        self._name = name
        self._tokens = tokens
        self._reading = reading
        self._key = key
        if (tokens.modes() == Part.LABEL).any():
            raise UserError(
                f"{name} holds labelled records, which are no running text; learn them with objective.name=classify."
            )
        self.num_samples = max(tokens.num_tokens - 1, 0) // reading.seq_length
        self._spare = max(tokens.num_tokens - 1, 0) % reading.seq_length
        check_vocabulary(name, tokens.tokens(0, FIRST_LOOK), reading)

    def read(self, epoch: int, index: int) -> Sample:
        """See ``Samples.read``."""
        length = self._reading.seq_length
        start, count = first_token(self._key, epoch, self._spare) + index * length, length + 1
        tokens = self._tokens.tokens(start, count)
        check_vocabulary(self._name, tokens, self._reading)
        return Sample(tokens, self._tokens.documents(start, count))


class OwnCorpus:
    """A source of the user's own; every sample is one document.

    Raises:
        UserError: the source is empty, or a sample is not ``seq_length + 1`` integers.
    """

    def __init__(self, name: str, source: Source, reading: Reading) -> None:
        self._name = name
        self._source = source
        self._reading = reading
        self.num_samples = len(source)

    def read(self, epoch: int, index: int) -> Sample:
        """See ``Samples.read``."""
        sample = np.asarray(self._source[index])
        count = self._reading.seq_length + 1
        if sample.shape != (count,) or sample.dtype.kind not in "iu":
            raise UserError(
                f"{self._name}: sample {index} is {sample.dtype.name} {list(sample.shape)}; give {count} integers "
                "(train.seq_length and one)."
            )
        tokens = sample.astype(np.int64)
        check_vocabulary(self._name, tokens, self._reading)
        return Sample(tokens, np.zeros(count, np.int32))


Cut = Callable[[str, IndexedTokens, Reading, tuple[int, ...]], Samples]
"""How a corpus on disk becomes samples; ``WindowCorpus`` is one way, and says what the arguments are."""


def open_corpus(key: str, path: str, split: str, reading: Reading, number: int, cut: Cut = WindowCorpus) -> Samples:
    """Open a prepared directory, a ``.bin/.idx`` prefix, or a source of the user's own.

    Args:
        key: the run-file key, for messages.
        split: which split of a directory to read.
        number: of the corpus in the mixture; the offsets of its epochs depend on it. Negative: they do not move.
        cut: how it becomes samples; a source of the user's own gives samples itself.

    Raises:
        UserError: nothing of the kind is there, it is broken, or its token ids do not fit the model.
    """
    name = f"{key}: {path}"
    moving = (reading.seed, number) if number >= 0 else ()
    place = Path(path)
    if (place / META).is_file():
        meta = read_meta(place)
        if meta.vocab_size > reading.vocab_size:
            raise UserError(
                f"{name} was made with a vocabulary of {meta.vocab_size}, model.vocab_size is {reading.vocab_size}; "
                f"set model.vocab_size to {meta.vocab_size} or more."
            )
        return cut(name, IndexedTokens(place / split), reading, moving)
    if any(file.is_file() for file in pair(place)):
        return cut(name, IndexedTokens(place), reading, moving)
    if place.is_dir():
        read_meta(place)
    if ":" in path:
        builtins: dict[str, Callable[[int, int], Source]] = {}
        factory = registry.lookup(key, path, builtins)
        return OwnCorpus(name, factory(reading.seq_length, reading.seed), reading)
    if place.is_file() and place.suffix in (".bin", ".idx"):
        raise UserError(f"{name} is one file of a pair; name the prefix {place.with_suffix('')}, without extension.")
    raise UserError(
        f"{name} is not there; name a directory made by `megalm data prepare`, the prefix of a .bin/.idx pair, or "
        "package.module:name."
    )


def check_vocabulary(name: str, tokens: NDArray[np.int64], reading: Reading) -> None:
    """Refuse token ids that the model has no row for.

    Raises:
        UserError: there is one.
    """
    if len(tokens) and not 0 <= (worst := int(tokens.min() if tokens.min() < 0 else tokens.max())) < reading.vocab_size:
        raise UserError(
            f"{name} holds token id {worst}, model.vocab_size is {reading.vocab_size}; set model.vocab_size to "
            "that of the tokenizer that made the corpus."
        )
