"""Tiny runs of each shape, and what one rank of them sees."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megalm.data.loader import TrainingData
from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.feed import Feed, cut_of, objective_of
from megalm.training.step import train_step
from megalm.validation import validate
from megalm.verify.compare import Tolerance, compare
from megalm.verify.probe import Probe, probe
from tests.ranks import RankContext, RankPool
from tests.verify.faults import planted

STEPS = 2
VOCAB_SIZE = 1009

MODELS: Mapping[str, Mapping[str, Any]] = {
    "gpt2 tied, 5 heads, dropout": {
        "family": "gpt2",
        "hidden_size": 40,
        "num_attention_heads": 5,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
    },
    "gpt2 untied": {
        "family": "gpt2",
        "hidden_size": 32,
        "num_attention_heads": 4,
        "tie_word_embeddings": False,
    },
    "gpt_neox, dropout": {
        "family": "gpt_neox",
        "hidden_size": 32,
        "num_attention_heads": 4,
        "rotary_pct": 0.5,
        "hidden_dropout": 0.1,
    },
    "gpt_neox tied, sequential residual": {
        "family": "gpt_neox",
        "hidden_size": 40,
        "num_attention_heads": 5,
        "use_parallel_residual": False,
        "tie_word_embeddings": True,
    },
    "llama, 3 key heads to 6, dropout": {
        "family": "llama",
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "attention_dropout": 0.1,
    },
    "llama tied, 1 key head to 5": {
        "family": "llama",
        "hidden_size": 40,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "intermediate_size": 37,
        "tie_word_embeddings": True,
        "attention_bias": True,
    },
}

GPT2, GPT2_UNTIED, NEOX, NEOX_TIED, LLAMA, LLAMA_TIED = MODELS


class RandomWindows:
    """Samples of random tokens; the token 0 begins a new document."""

    def __init__(self, seq_length: int, seed: int) -> None:
        generator = np.random.Generator(np.random.PCG64(seed))
        self.tokens = generator.integers(0, VOCAB_SIZE, (50, seq_length + 1))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int, /) -> NDArray[np.int64]:
        row: NDArray[np.int64] = self.tokens[index]
        return row


def random_windows(seq_length: int, seed: int) -> RandomWindows:
    return RandomWindows(seq_length, seed)


def run_file(model: str, /, **sections: Mapping[str, Any]) -> RunConfig:
    """Return the run of one of ``MODELS``; sections are merged into the defaults of these tests."""
    tree: dict[str, dict[str, Any]] = {
        "model": {
            "num_hidden_layers": 2,
            "vocab_size": VOCAB_SIZE,
            "max_position_embeddings": 16,
            **MODELS[model],
        },
        "data": {"train": [{"path": "tests.verify.runs:random_windows"}]},
        "train": {"precision": "fp64", "global_batch_size": 12, "micro_batch_size": 12, "seq_length": 13},
        "optimizer": {"lr": 1e-2, "clip_grad_norm": 0.5},
    }
    for name, fields in sections.items():
        tree[name] = {**tree.get(name, {}), **fields}
    return validate(RunConfig, tree)


def seen_alone(config: RunConfig) -> Probe:
    return probe(config, Mesh.alone(), STEPS)


def seen_by_rank(context: RankContext, config: RunConfig, fault: str | None = None) -> Probe:
    with planted(fault):
        return probe(config, Mesh.build(config.layout, timeout_s=30), STEPS)


def assert_as_alone(ranks: RankPool, config: RunConfig, reference: Probe, tolerance: Tolerance) -> list[Probe]:
    """Compare a run over ranks, tensor by tensor, with what one process sees, and return what they see."""
    seen = ranks.run(config.layout.world_size, seen_by_rank, config)
    findings = compare(reference, seen, tolerance, config.optimizer.lr)
    apart = [finding for finding in findings if not finding.agrees]
    assert apart == [], apart
    return seen


def assert_no_difference(ranks: RankPool, config: RunConfig, alone: RunConfig, tolerance: Tolerance) -> None:
    """Compare a run over ranks with another one that one process does, and see that there is something to compare."""
    reference = seen_alone(alone)
    assert_as_alone(ranks, config, reference, tolerance)
    assert len(reference.losses) == 2
    assert reference.grad_norms[0] > 0


def ledger_of_rank(context: RankContext, config: RunConfig) -> Ledger:
    """Return the account of one step, the exchange of the first values left out."""
    ledger = Ledger()
    mesh = Mesh.build(config.layout, ledger=ledger, timeout_s=30)
    state = build_state(config, mesh)
    ledger.entries.clear()
    train_step(state, Feed(config, mesh, windows_of(config), objective_of(config)).training_step(0))
    return ledger


def windows_of(config: RunConfig) -> TrainingData:
    """Return the samples of a run of these tests."""
    settings = {"seq_length": config.train.seq_length, "global_batch_size": config.train.global_batch_size}
    cut = cut_of(config)
    return TrainingData(config.data, **settings, vocab_size=VOCAB_SIZE, seed=config.run.seed, cut=cut)
