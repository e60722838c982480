"""Tokens drawn from the softmax of an output head whose vocabulary is cut, the same at every layout."""

import torch
from torch import Tensor, nn

from megalm import collectives, rng
from megalm.parallel.tensor.cross_entropy import VocabParallelHead
from megalm.parallel.tensor.product import product_into, widened
from megalm.parallel.tensor.vocab import CHUNK_TOKENS


class DrawnTokens(nn.Module):
    """The most likely token after Gumbel noise on the logits, which is a draw from their softmax (Gumbel 1954).

    The noise is a pure function of the stream, of the place and of the token that it is for: a rank makes that of its
    own part of the vocabulary.
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__()
        self.stream = rng.key("unnamed")

    @torch.no_grad()
    def forward(self, x: Tensor, token_rows: Tensor, head: VocabParallelHead) -> Tensor:
        """Return the tokens int64 [n], on every rank of the head's axis; of several that are as good, the first.

        Args:
            x: [n, features], the whole rows that the head reads.
            token_rows: int64 [n], the run-wide numbers of the places.
            head: whose logits they are drawn by.
        """
        axis, wide_weight = head.region.axis, widened(head.weight)
        ids = torch.arange(head.start, head.start + wide_weight.shape[0], device=x.device)
        wide = torch.promote_types(x.dtype, torch.float32)
        best = torch.full((len(x),), -torch.inf, dtype=wide, device=x.device)
        found = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        buffer = best.new_empty(min(CHUNK_TOKENS, len(x)), len(ids))
        for first in range(0, len(x) if len(ids) else 0, CHUNK_TOKENS):
            part = slice(first, first + CHUNK_TOKENS)
            logits = product_into(buffer[: len(x[part])], widened(x[part]), wide_weight.t(), 1.0)
            if head.bias is not None:
                logits += head.bias
            noisy = logits.add_(gumbel(self.stream, token_rows[part], ids))
            best[part], at = noisy.max(-1)
            found[part] = ids[at]
        top = collectives.all_reduce(best.clone(), axis, "max")
        # "max" of negative ids, so that ranks with equal logits agree on the first token
        first_of = torch.where(best == top, -found, torch.iinfo(torch.int64).min)
        return -collectives.all_reduce(first_of, axis, "max")


def gumbel(stream: int, token_rows: Tensor, ids: Tensor) -> Tensor:
    """Return float64 [n, ids], standard Gumbel numbers; see ``DrawnTokens``."""
    uniform = rng.bits(stream, token_rows, ids).double().add_(2**31 + 0.5).mul_(2.0**-32)
    return uniform.log_().neg_().log_().neg_()
