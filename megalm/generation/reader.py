"""Sequences of any lengths, read side by side by a model over its ranks."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from megalm.batch import IGNORED, MicroBatch, Source
from megalm.generation.model import LanguageModel
from megalm.kv_cache import KeyValueCache


class SequenceReader:
    """A ``Reader`` of a language model, which computes each token once.

    Sequences stand at the left, shorter ones with padding behind them: no token sees what is after it, so each is read
    as if it were alone.

    Args:
        model: what reads.
        max_new_tokens: how many tokens will follow the prompts at most.
    """

    def __init__(self, model: LanguageModel, max_new_tokens: int) -> None:
        """See the class."""
        self._model, self._max_new_tokens = model, max_new_tokens
        self._cache = KeyValueCache(0, 0)

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Reader``."""
        longest = max(len(prompt) for prompt in prompts)
        self._cache = KeyValueCache(len(prompts), longest + self._max_new_tokens)
        return self._read(prompts)

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``Reader``."""
        self._cache.select(parents)
        return self._read([[token] for token in tokens])

    def source(self) -> Source | None:
        """Return what an encoder reads for the sequences; there is none."""
        return None

    def _read(self, new: Sequence[Sequence[int]]) -> Tensor:
        counts = [len(tokens) for tokens in new]
        batch = batch_of(new, self._cache.lengths, self._model.mesh.device)
        logits = self._model.logits(replace(asking_last(batch, counts), source=self.source(), cache=self._cache))
        self._cache.advance(counts)
        return logits


def batch_of(sequences: Sequence[Sequence[int]], firsts: Sequence[int], device: torch.device) -> MicroBatch:
    """Return parts of sequences as a micro-batch that has no labels; token 0 fills up the shorter ones.

    Args:
        sequences: new tokens of each sequence.
        firsts: the position of each one's first new token.
        device: where the tensors lie.
    """
    longest = max(len(tokens) for tokens in sequences)
    tokens_bs = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in sequences], device=device)
    places_bs = torch.tensor(firsts, device=device).unsqueeze(1) + torch.arange(longest, device=device)
    rows_bs = torch.arange(tokens_bs.numel(), device=device).view_as(tokens_bs)
    return MicroBatch(tokens_bs, torch.full_like(tokens_bs, IGNORED), places_bs, rows_bs, loss_scale=0.0)


def asking_last(batch: MicroBatch, lengths: Sequence[int]) -> MicroBatch:
    """Return the micro-batch with a label at the last place of each sequence."""
    labels_bs = batch.labels_bs.clone()
    labels_bs[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 0
    return replace(batch, labels_bs=labels_bs)
