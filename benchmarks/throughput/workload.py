"""The work that every side does: one GPT-2 shape, one stream of tokens, one optimizer."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Workload:
    """A GPT-2 shape (pre-LN, learned positions, tanh GELU, biases, tied head) and how it is trained, in fp32.

    Args:
        num_layers: blocks.
        hidden_size: width; the MLP is four times as wide.
        num_heads: attention heads.
        vocab_size: tokens; the head's products are ``vocab_size`` wide.
        seq_length: tokens of a sequence, and the number of learned positions.
        global_batch_size: sequences of a step over all ranks.
        warmup_steps: steps before the clocks start: first-touch of memory, optimizer state, thread pools.
        timed_steps: steps between the clocks.
        learning_rate: of AdamW; its other settings are as PyTorch's ``AdamW()`` comes.
        clip_grad_norm: the global gradient norm is clipped to this.
        seed: of the token stream and of the weights.
    """

    num_layers: int = 6
    hidden_size: int = 384
    num_heads: int = 6
    vocab_size: int = 50304
    seq_length: int = 256
    global_batch_size: int = 16
    warmup_steps: int = 2
    timed_steps: int = 3
    learning_rate: float = 1e-3
    clip_grad_norm: float = 1.0
    seed: int = 1234

    @property
    def steps(self) -> int:
        """Steps of one measurement, warm-up included."""
        return self.warmup_steps + self.timed_steps

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step over all ranks."""
        return self.global_batch_size * self.seq_length

    @property
    def num_parameters(self) -> int:
        """Parameters in closed form, the tied head counted once."""
        hidden = self.hidden_size
        block = 12 * hidden * hidden + 13 * hidden
        return self.num_layers * block + (self.vocab_size + self.seq_length) * hidden + 2 * hidden

    def rows(self, step: int, first: int, count: int) -> Tensor:
        """Return sequences ``first`` to ``first + count`` of the global batch of a step, int64 [count, seq_length + 1].

        Tokens are drawn uniformly from a generator seeded by the step alone, so every side and every layout reads
        the same global batch.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        shape = (self.global_batch_size, self.seq_length + 1)
        return torch.randint(self.vocab_size, shape, generator=generator)[first : first + count]

    def batch(self, step: int, data_rank: int = 0, num_data_ranks: int = 1) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, each [local batch, seq_length], of one data-parallel rank at a step."""
        local = self.global_batch_size // num_data_ranks
        rows = self.rows(step, data_rank * local, local)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
