"""Targets of an encoder-decoder, continued side by side for the sources that they are of."""

from collections.abc import Sequence

import torch
from torch import Tensor

from megalm.batch import Source
from megalm.generation.model import LanguageModel
from megalm.generation.reader import SequenceReader, batch_of


class TargetReader(SequenceReader):
    """A ``Reader`` of an encoder-decoder, whose encoder reads each source once.

    Padding stands behind shorter sources and is seen by nobody; targets begin with equally many tokens.

    Args:
        model: what reads.
        max_new_tokens: how many tokens will follow the beginnings at most.
        sources: one for each of the sequences to begin with.
    """

    def __init__(self, model: LanguageModel, max_new_tokens: int, sources: Sequence[Sequence[int]]) -> None:
        """See the class."""
        super().__init__(model, max_new_tokens)
        self._source = source_of(sources, model.mesh.device)

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """See ``Reader``; a prompt is the beginning of a target."""
        if len({len(prompt) for prompt in prompts}) > 1:
            raise ValueError("targets that are continued together begin with equally many tokens")
        return super().begin(prompts)

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``Reader``."""
        self._source = self._source.mapped(lambda tensor_bs: tensor_bs[list(parents)])
        return super().go_on(parents, tokens)

    def source(self) -> Source:
        """Return the sources of the sequences that are read now."""
        return self._source


def source_of(sources: Sequence[Sequence[int]], device: torch.device) -> Source:
    """Return sources as an encoder reads them; only where they differ in length is there padding to be told."""
    read = batch_of(sources, [0] * len(sources), device)
    lengths = torch.tensor([len(source) for source in sources], device=device).unsqueeze(1)
    documents_bs = torch.where(read.positions_bs < lengths, 0, -1).int()
    padded = bool((documents_bs < 0).any())
    return Source(read.tokens_bs, read.positions_bs, read.rows_bs, documents_bs if padded else None)
