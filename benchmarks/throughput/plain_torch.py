"""The first peer: the GPT that one writes in plain PyTorch, alone or under DistributedDataParallel."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.throughput.measure import Step
from benchmarks.throughput.workload import Workload


class Block(nn.Module):
    """A pre-LN block: attention and MLP, each read through a LayerNorm and added to the stream."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        """See the class."""
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp_in = nn.Linear(hidden_size, 4 * hidden_size)
        self.mlp_out = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map the stream [batch, seq, hidden] to itself."""
        batch, seq, hidden = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, seq, 3, self.num_heads, hidden // self.num_heads)
        q_bhsd, k_bhsd, v_bhsd = qkv.permute(2, 0, 3, 1, 4)
        mixed_bhsd = F.scaled_dot_product_attention(q_bhsd, k_bhsd, v_bhsd, is_causal=True)
        x = x + self.attention_out(mixed_bhsd.transpose(1, 2).reshape(batch, seq, hidden))
        widened = F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        return torch.add(x, self.mlp_out(widened))


class PlainGPT(nn.Module):
    """GPT-2's shape with a tied head; ``forward`` returns the mean loss, so that DDP wraps the whole of it."""

    def __init__(self, workload: Workload) -> None:
        """See the class."""
        super().__init__()
        hidden = workload.hidden_size
        self.tokens = nn.Embedding(workload.vocab_size, hidden)
        self.positions = nn.Embedding(workload.seq_length, hidden)
        self.blocks = nn.Sequential(*(Block(hidden, workload.num_heads) for _ in range(workload.num_layers)))
        self.final_norm = nn.LayerNorm(hidden)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy of token numbers ``inputs`` and ``targets``, both [batch, seq]."""
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        logits = F.linear(self.final_norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def build_step(workload: Workload, data_parallel: bool) -> tuple[Step, int]:
    """Return the training step of this rank and the number of the model's parameters."""
    torch.manual_seed(workload.seed)
    plain = PlainGPT(workload)
    model: nn.Module = DistributedDataParallel(plain) if data_parallel else plain
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if data_parallel else (0, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=workload.learning_rate)

    def step(index: int) -> float:
        inputs, targets = workload.batch(index, rank, world_size)
        loss = model(inputs, targets)
        learn(loss, model, optimizer, workload)
        return over_ranks(loss) if data_parallel else loss.item()

    return step, sum(parameter.numel() for parameter in plain.parameters())


def learn(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, workload: Workload) -> None:
    """Backward, clipping and update, as every side in plain PyTorch does them."""
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), workload.clip_grad_norm)
    optimizer.step()
    optimizer.zero_grad()


def over_ranks(loss: Tensor) -> float:
    """Return the mean of the ranks' losses."""
    total = loss.detach()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
