"""Sequences of any lengths, read side by side by a model over its ranks."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from megalm.batch import IGNORED, MicroBatch
from megalm.generation.model import LanguageModel


class SequenceReader:
    """A ``Reader`` of a language model.

    Sequences stand at the left, shorter ones with padding behind them: no token sees what is after it, so each is read
    as if it were alone.

    Args:
        model: what reads.
    """

    def __init__(self, model: LanguageModel) -> None:
        """See the class."""
        self._model = model
        self._sequences: list[list[int]] = []

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Reader``."""
        self._sequences = [list(prompt) for prompt in prompts]
        return self._read()

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``Reader``."""
        self._sequences = [[*self._sequences[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return self._read()

    def _read(self) -> Tensor:
        batch = batch_of(self._sequences, self._model.mesh.device)
        return self._model.logits(asking_last(batch, [len(tokens) for tokens in self._sequences]))


def batch_of(sequences: Sequence[Sequence[int]], device: torch.device) -> MicroBatch:
    """Return sequences as a micro-batch that has no labels; token 0 fills up the shorter ones."""
    longest = max(len(tokens) for tokens in sequences)
    tokens_bs = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in sequences], device=device)
    places_bs = torch.arange(longest, device=device).expand(len(sequences), -1)
    rows_bs = torch.arange(tokens_bs.numel(), device=device).view_as(tokens_bs)
    return MicroBatch(tokens_bs, torch.full_like(tokens_bs, IGNORED), places_bs, rows_bs, loss_scale=0.0)


def asking_last(batch: MicroBatch, lengths: Sequence[int]) -> MicroBatch:
    """Return the micro-batch with a label at the last place of each sequence."""
    labels_bs = batch.labels_bs.clone()
    labels_bs[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 0
    return replace(batch, labels_bs=labels_bs)
