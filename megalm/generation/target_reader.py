"""Targets of an encoder-decoder, continued side by side for the sources that they are of."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from megalm.batch import Source
from megalm.generation.model import LanguageModel
from megalm.generation.reader import asking_last, batch_of


class TargetReader:
    """A ``Reader`` of an encoder-decoder. It reads a source and its target anew for every token.

    Padding stands behind shorter sources and shorter targets, and is seen by nobody.

    Args:
        model: what reads.
        sources: one for each of the sequences to begin with.
    """

    def __init__(self, model: LanguageModel, sources: Sequence[Sequence[int]]) -> None:
        """See the class."""
        self._model = model
        self._sources = list(sources)
        self._targets: list[list[int]] = []

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Reader``; a prompt is the beginning of a target."""
        self._targets = [list(prompt) for prompt in prompts]
        return self._read()

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``Reader``."""
        self._sources = [self._sources[parent] for parent in parents]
        self._targets = [[*self._targets[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return self._read()

    def _read(self) -> Tensor:
        device = self._model.mesh.device
        read = batch_of(self._sources, [0] * len(self._sources), device)
        lengths = torch.tensor([len(source) for source in self._sources], device=device)
        documents_bs = torch.where(read.positions_bs < lengths.unsqueeze(1), 0, -1).int()
        source = Source(read.tokens_bs, read.positions_bs, read.rows_bs, documents_bs)
        batch = batch_of(self._targets, [0] * len(self._targets), device)
        asked = asking_last(batch, [len(target) for target in self._targets])
        return self._model.logits(replace(asked, source=source))
