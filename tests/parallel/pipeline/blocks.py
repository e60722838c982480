"""Small blocks whose loss is the end of the graph, and micro-batches for them."""

import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch

HIDDEN = 4


def micro_batch(number: int, samples: int = 2, loss_scale: float = 0.1) -> MicroBatch:
    tokens = torch.arange(samples * 3).view(samples, 3) + 10 * number
    return MicroBatch(tokens, tokens, tokens, tokens, loss_scale)


class Entry(nn.Module):
    """Tokens to rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, HIDDEN, dtype=torch.float64)

    def forward(self, _: Tensor | None, batch: MicroBatch) -> Tensor:
        rows: Tensor = self.table(batch.tokens_bs.flatten())
        return rows


class Middle(nn.Module):
    """Rows to rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(HIDDEN, HIDDEN, dtype=torch.float64)

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        return x + self.linear(x).tanh()  # type: ignore[no-any-return]


class Loss(nn.Module):
    """Rows to the micro-batch's share of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(HIDDEN, 1, dtype=torch.float64)

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        return self.linear(x).square().sum() * batch.loss_scale  # type: ignore[no-any-return]


def blocks() -> list[nn.Module]:
    torch.manual_seed(0)
    return [Entry(), Middle(), Middle(), Loss()]


def plain_run(chain: list[nn.Module], batches: list[MicroBatch]) -> Tensor:
    """Return the summed loss; gradients are those of plain autograd over the whole chain."""
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        x = None
        for block in chain:
            x = block(x, batch)
        assert x is not None
        if x.requires_grad:
            x.backward()
        total += x.detach()
    return total


def gradients(chain: list[nn.Module]) -> list[Tensor | None]:
    return [parameter.grad for block in chain for parameter in block.parameters()]
