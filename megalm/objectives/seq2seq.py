"""Sequence to sequence: an encoder reads a source, and a decoder that is told its target so far says the next token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megalm.batch import IGNORED, MicroBatch, Source
from megalm.data.loader import Rows
from megalm.objectives.draws import Draws
from megalm.objectives.places import places_of

Tokens = NDArray[np.int64]


class Examples(Protocol):
    """How samples become pairs of a source and a target."""

    def __call__(self, rows: Rows, draws: Draws, /) -> tuple[Sequence[Tokens], Sequence[Tokens]]:
        """Return the source and the target of each sample, each int64 [any length], without what stands around."""


@dataclass(frozen=True)
class Framing:
    """The special tokens around a sequence.

    Args:
        first: what a sequence begins with, if with anything.
        end: what it ends with.
        pad: what fills shorter ones up.
        start: what a decoder is told before its first token.
    """

    first: int | None
    end: int
    pad: int
    start: int

    @property
    def size(self) -> int:
        """How many tokens a framed sequence has beside its own."""
        return 1 if self.first is None else 2

    def around(self, tokens: Tokens) -> Tokens:
        """Return the framed sequence."""
        first = [] if self.first is None else [self.first]
        return np.concatenate([np.array(first, np.int64), tokens, np.array([self.end], np.int64)])


@dataclass(frozen=True)
class Seq2Seq:
    """Makes micro-batches of pairs.

    All sequences of a rank's share are as long as its longest: the ends of shorter ones are padding, which no key of
    attention and no label is of. The tokens of a run are numbered as if all were ``longest`` long, so that what is
    drawn for a token depends on no other sample.

    Args:
        examples: how samples become pairs.
        framing: what stands around their sequences.
        longest: how long a framed sequence can be.
        seed: of the run.
    """

    examples: Examples
    framing: Framing
    longest: int
    seed: int

    def __call__(self, rows: Rows, *, reset_attention: bool) -> MicroBatch:
        """Turn samples into what the encoder reads, what the decoder is told, and what it should say."""
        assert not reset_attention, "each sample is one document"
        sources, targets = self.examples(rows, Draws(self.seed, rows.samples_b))
        read_bs, read_documents_bs = self._padded([self.framing.around(tokens) for tokens in sources])
        said_bs, said_documents_bs = self._padded([self.framing.around(tokens) for tokens in targets])
        told_bs = said_bs.roll(1, 1)
        told_bs[:, 0] = self.framing.start
        labels_bs = said_bs if said_documents_bs is None else said_bs.masked_fill(said_documents_bs < 0, IGNORED)
        source = Source(read_bs, *places_of(rows, read_bs.shape[1], self.longest), read_documents_bs)
        # Padding at the end of a target is after all that is learned, so that no query which is learned sees it.
        return MicroBatch(
            told_bs, labels_bs, *places_of(rows, told_bs.shape[1], self.longest), loss_scale=1.0, source=source
        )

    def _padded(self, sequences: Sequence[Tokens]) -> tuple[Tensor, Tensor | None]:
        """Return tokens [b, s], and documents [b, s] where there is padding."""
        width = max((len(tokens) for tokens in sequences), default=1)
        padded_bs = np.full((len(sequences), width), self.framing.pad, np.int64)
        documents_bs = np.full((len(sequences), width), -1, np.int32)
        for row, tokens in enumerate(sequences):
            padded_bs[row, : len(tokens)] = tokens
            documents_bs[row, : len(tokens)] = 0
        documents = torch.from_numpy(documents_bs) if (documents_bs < 0).any() else None
        return torch.from_numpy(padded_bs), documents
