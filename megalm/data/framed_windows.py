"""A corpus as windows, each between the two tokens that an encoder expects around a text."""

import numpy as np

from megalm.data.corpora import FIRST_LOOK, Reading, Sample, check_vocabulary, first_token
from megalm.data.indexed import IndexedTokens
from megalm.data.sentence_pairs import Frame
from megalm.errors import UserError


class FramedWindows:
    """Windows of ``seq_length - 2`` tokens of a corpus on disk, across documents; each epoch begins elsewhere.

    Args:
        name: for messages.
        tokens: the corpus.
        reading: a sample has ``seq_length`` tokens, and one more that nobody reads.
        key: what the offsets depend on beside the epoch; empty for windows that never move.
        frame: what stands around them.

    Raises:
        UserError: samples are too short, or an id is not in the vocabulary.
    """

    def __init__(
        self, name: str, tokens: IndexedTokens, reading: Reading, key: tuple[int, ...], *, frame: Frame
    ) -> None:
        self._name, self._tokens, self._reading, self._key, self._frame = name, tokens, reading, key, frame
        self._room = reading.seq_length - 2
        if self._room < 1:
            raise UserError(
                f"train.seq_length={reading.seq_length} has no room for a text and the two tokens around it; give 3 or "
                "more."
            )
        self.num_samples, self._spare = divmod(tokens.num_tokens, self._room)
        check_vocabulary(name, tokens.tokens(0, FIRST_LOOK), reading)

    def read(self, epoch: int, index: int) -> Sample:
        """See ``Samples.read``."""
        start = first_token(self._key, epoch, self._spare) + index * self._room
        text = self._tokens.tokens(start, self._room)
        check_vocabulary(self._name, text, self._reading)
        documents = self._tokens.documents(start, self._room)
        frame = self._frame
        return Sample(
            np.array([frame.first, *text, frame.end, frame.padding], np.int64),
            np.array([documents[0], *documents, documents[-1], -1], np.int32),
        )
