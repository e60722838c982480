"""Both sides on one shape of model in one process, by turns."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megalm.generation.generate import generate
from megalm.generation.model import LanguageModel
from megalm.generation.options import Options
from megalm.generation.reader import SequenceReader
from megalm.mesh import Mesh
from megalm.parameters import initialize
from megalm.run_config import RunConfig
from megalm.validation import validate

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network

SEED = 0
Side = Callable[[Tensor, int], Sequence[Sequence[int]]]
"""Continues prompts [b, s] greedily by so many tokens each."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a GPT-2; as given those of the one with 124 million parameters."""

    num_hidden_layers: int = 12
    hidden_size: int = 768
    num_attention_heads: int = 12
    vocab_size: int = 50257
    max_position_embeddings: int = 1024


@dataclass(frozen=True)
class Case:
    """What is generated.

    Args:
        batch_size: prompts, continued together.
        prompt_length: tokens of each.
        new_tokens: of each continuation.
    """

    batch_size: int
    prompt_length: int = 64
    new_tokens: int = 64


def megalm_side(shape: Shape) -> Side:
    """Return megalm, with weights drawn from a seed."""
    tree = {
        "model": {"family": "gpt2", **vars(shape)},
        "data": {"train": [{"path": "not read"}]},
        "train": {"seq_length": 8},
    }
    model = LanguageModel(validate(RunConfig, tree), Mesh.alone())
    model.fill(lambda parameters, positions, _: initialize(parameters, SEED, positions))

    def run(prompts_bs: Tensor, new_tokens: int) -> Sequence[Sequence[int]]:
        return generate(SequenceReader(model, new_tokens), prompts_bs.tolist(), Options(max_new_tokens=new_tokens))

    return run


def transformers_side(shape: Shape) -> Side:
    """Return transformers, with weights drawn from a seed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(SEED)
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.max_position_embeddings,
        n_embd=shape.hidden_size,
        n_layer=shape.num_hidden_layers,
        n_head=shape.num_attention_heads,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    model = GPT2LMHeadModel(config).eval()

    def run(prompts_bs: Tensor, new_tokens: int) -> Sequence[Sequence[int]]:
        with torch.inference_mode():
            whole = model.generate(
                prompts_bs,
                attention_mask=torch.ones_like(prompts_bs),
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        found: list[list[int]] = whole[:, prompts_bs.shape[1] :].tolist()
        return found

    return run


def tokens_per_s(side: Side, case: Case, shape: Shape) -> float:
    """Generate once and return the new tokens of all prompts over the wall time, that of the prompts included."""
    generator = torch.Generator().manual_seed(SEED)
    prompts_bs = torch.randint(0, shape.vocab_size, (case.batch_size, case.prompt_length), generator=generator)
    started = time.perf_counter()
    found = side(prompts_bs, case.new_tokens)
    seconds = time.perf_counter() - started
    if [len(tokens) for tokens in found] != [case.new_tokens] * case.batch_size:
        raise RuntimeError(f"a side made {[len(tokens) for tokens in found]} tokens, not {case.new_tokens} each")
    return case.batch_size * case.new_tokens / seconds
