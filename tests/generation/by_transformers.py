"""transformers' model as a reader, and its own generate."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from megalm.generation.options import Options

os.environ["HF_HUB_OFFLINE"] = "1"


def tiny_model(seed: int = 0, vocab_size: int = 61) -> nn.Module:
    """Return a GPT-2 in float64 whose logits are far enough apart to have opinions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=64,
        n_embd=24,
        n_layer=2,
        n_head=3,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config).double().eval()  # type: ignore[no-any-return]


class Rereading:
    """Reads each sequence alone, from its beginning."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.sequences: list[list[int]] = []

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        self.sequences = [list(prompt) for prompt in prompts]
        return self._logits()

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        self.sequences = [[*self.sequences[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return self._logits()

    def _logits(self) -> Tensor:
        return torch.stack([self._model(torch.tensor([tokens])).logits[0, -1] for tokens in self.sequences])


def generated(model: Any, prompt: Sequence[int], options: Options, end: int | None) -> list[int]:
    """Return the continuation that transformers' generate gives, without what fills it up."""
    given = torch.tensor([list(prompt)])
    out = model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=options.max_new_tokens,
        do_sample=False,
        num_beams=options.num_beams,
        repetition_penalty=options.repetition_penalty,
        eos_token_id=end,
        pad_token_id=0 if end is None else end,
    )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens if end is None or end not in tokens else tokens[: tokens.index(end) + 1]
