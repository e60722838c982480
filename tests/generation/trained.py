"""Small runs with a checkpoint, for generation to start from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from megalm.batch import IGNORED, MicroBatch
from megalm.checkpoint.store import CheckpointStore
from megalm.generation.generate import Reader
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.resume import facts, owned_pieces
from tests.verify.runs import run_file

VOCAB_SIZE = 97
POSITIONS = 48


def trained(directory: Path, name: str, **sections: Mapping[str, Any]) -> tuple[RunConfig, nn.Module]:
    """Save a checkpoint of one of ``tests.verify.runs`` as a run's newest, and return the run and its model."""
    model = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": POSITIONS, "initializer_range": 0.2}
    config = run_file(name, **{**sections, "model": {**model, **sections.get("model", {})}})
    return config, saved(directory, config)


def saved(directory: Path, config: RunConfig) -> nn.Module:
    """Save a checkpoint of a run with every value moved, as a run's newest, and return its model."""
    state = build_state(config, Mesh.alone())
    generator = torch.Generator().manual_seed(11)
    for bucket in state.buckets:
        bucket.owned_values.add_(torch.randn(bucket.owned_values.shape, generator=generator) * 0.1)
    state.loaded()
    state.step = 3
    store = CheckpointStore(directory / "checkpoints", world=Mesh.alone().world, keep=1)
    store.save(3, owned_pieces(state), facts(state, config), asynchronous=False)
    return state.model.eval()


def bytes_tokenizer(*special: str) -> Tokenizer:
    """Return a tokenizer with a token a byte and, from number 256, special tokens: the end of a document, if none."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(special or ("<|endoftext|>",)))
    return made


class PlainReading:
    """A reader that gives each sequence to the model alone and whole, by its own plain forward."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._sequences: list[list[int]] = []

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        self._sequences = [list(prompt) for prompt in prompts]
        return self._logits()

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        self._sequences = [[*self._sequences[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return self._logits()

    def _logits(self) -> Tensor:
        return torch.stack([plain_logits(self._model, tokens)[-1] for tokens in self._sequences])


def plain_logits(model: nn.Module, tokens: Sequence[int]) -> Tensor:
    """Return the logits [tokens, vocabulary] after each token."""
    tokens_bs = torch.tensor([list(tokens)])
    places_bs = torch.arange(len(tokens)).unsqueeze(0)
    batch = MicroBatch(tokens_bs, torch.full_like(tokens_bs, IGNORED), places_bs, places_bs, 0.0)
    logits: Tensor = model.logits(batch)  # type: ignore[operator]
    return logits


class Noting:
    """A reader that keeps what the one inside gave."""

    def __init__(self, inside: Reader) -> None:
        self._inside = inside
        self.logits: list[Tensor] = []

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        self.logits.append(self._inside.begin(prompts))
        return self.logits[-1]

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        self.logits.append(self._inside.go_on(parents, tokens))
        return self.logits[-1]
