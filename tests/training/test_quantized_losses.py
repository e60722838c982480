"""Oracle: the losses of the same run by AdamW in float32."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.step import train_step
from tests.verify.runs import LLAMA, run_file, windows_of

STEPS = 300
NUM_TOKENS = 64


class Chain:
    """Samples of a language in which eight tokens, more and less likely ones, can follow each one."""

    def __init__(self, seq_length: int, seed: int) -> None:
        generator = np.random.Generator(np.random.PCG64(seed))
        followers = generator.integers(0, NUM_TOKENS, (NUM_TOKENS, 8))
        chances = np.arange(1, 9) / np.arange(1, 9).sum()
        self.rows = np.empty((2000, seq_length + 1), dtype=np.int64)
        self.rows[:, 0] = generator.integers(0, NUM_TOKENS, len(self.rows))
        for place in range(seq_length):
            which = generator.choice(8, len(self.rows), p=chances)
            self.rows[:, place + 1] = followers[self.rows[:, place], which]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> NDArray[np.int64]:
        row: NDArray[np.int64] = self.rows[index]
        return row


def chain(seq_length: int, seed: int) -> Chain:
    return Chain(seq_length, seed)


def config_of(rule: str) -> RunConfig:
    return run_file(
        LLAMA,
        model={"intermediate_size": 300, "attention_dropout": 0.0},
        data={"train": [{"path": "tests.training.test_quantized_losses:chain"}]},
        train={"precision": "fp32", "steps": STEPS},
        optimizer={"name": rule, "lr": 3e-3},
    )


def losses(config: RunConfig) -> list[float]:
    state = build_state(config, Mesh.alone())
    state.model.train()
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    return [train_step(state, feed.training_step(step)).loss for step in range(STEPS)]


def test_after_300_steps_the_loss_is_that_of_wide_moments_within_1_percent() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    wide, narrow = losses(config_of("adamw")), losses(config_of("adamw8bit"))
    torch.set_num_threads(before)
    assert narrow == pytest.approx(wide, rel=0.01)
    assert narrow[-1] < 0.6 * narrow[0]
    assert narrow != wide
