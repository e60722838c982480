"""The output head and its cross entropy, fused, with the vocabulary cut over the tensor axis.

Only one chunk of logits lives at a time: as soon as a chunk's losses are known its gradient is, so the backward
products of the head are made in the forward pass and the [tokens, vocabulary] matrix is never kept.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from megalm import collectives
from megalm.batch import IGNORED
from megalm.mesh import Axis
from megalm.parallel.tensor.gradient import add_product, add_row_sums
from megalm.parallel.tensor.product import product, product_into, widened
from megalm.parallel.tensor.region import Region
from megalm.parallel.tensor.vocab import CHUNK_TOKENS, vocab_ranges
from megalm.param_spec import Init, ParamSpec, Split
from megalm.parameters import new_parameter

LOG2_E = 1 / math.log(2)
"""The product that makes the logits has this factor for nothing, and exp2 takes less time than exp."""

ROWS_IN_CACHE = 16
"""The softmax makes several passes over the logits; of so many rows at a time they stay in a processor's cache."""


def chunk_losses(logits_tv: Tensor, local_labels: Tensor, ours: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """Return each token's loss [t] and the denominator [t] of its softmax, whose numerators the logits become in place.

    Args:
        logits_tv: [t, local vocabulary], times ``LOG2_E``; overwritten.
        local_labels: int64 [t], each label as an index of the local vocabulary, 0 where it is another rank's.
        ours: bool [t], where the label is in the local vocabulary.
        axis: the tensor axis; two all-reduces a chunk.
    """
    top = logits_tv.amax(-1)
    collectives.all_reduce(top, axis, "max")
    logits_tv.sub_(top.unsqueeze(-1))
    said = logits_tv.gather(-1, local_labels.unsqueeze(-1)).squeeze(-1).masked_fill_(~ours, 0)
    logits_tv.exp2_()
    totals = collectives.all_reduce(torch.stack([logits_tv.sum(-1), said]), axis)
    return totals[0].log() - totals[1] / LOG2_E, totals[0]


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        scale: float,
        region: Region,
        start: int,
        learn: bool,
    ) -> Tensor:
        whole = region.whole_rows(x)[: labels.shape[0]]
        valid = labels != IGNORED
        local = labels - start
        ours = valid & (local >= 0) & (local < weight.shape[0])
        local = local.masked_fill(~ours, 0)
        loss = whole.new_zeros((), dtype=torch.promote_types(whole.dtype, torch.float32))
        dx = torch.empty_like(whole) if learn else None
        weight_gradient: Tensor | None = None
        bias_gradient: Tensor | None = None
        wide_weight = widened(weight)
        buffer = loss.new_empty(min(CHUNK_TOKENS, len(labels)), weight.shape[0])
        in_cache = region.axis.size == 1 and not whole.is_cuda  # over ranks each piece costs two collectives
        for first in range(0, len(labels), CHUNK_TOKENS):
            part = slice(first, first + CHUNK_TOKENS)
            count = min(CHUNK_TOKENS, len(labels) - first)
            logits = product_into(buffer[:count], widened(whole[part]), wide_weight.t(), LOG2_E)
            if bias is not None:
                logits.add_(bias, alpha=LOG2_E)
            rows = ROWS_IN_CACHE if in_cache else count
            for piece, begin in zip(torch.split(logits, rows), range(first, first + count, rows), strict=True):
                at = slice(begin, begin + len(piece))
                losses, totals = chunk_losses(piece, local[at], ours[at], region.axis)
                loss += losses.masked_fill_(~valid[at], 0).sum()
                if dx is not None:
                    piece.mul_(valid[at].to(loss.dtype).mul_(scale).div_(totals).unsqueeze(-1))
                    piece.scatter_add_(-1, local[at].unsqueeze(-1), ours[at].to(loss.dtype).mul_(-scale).unsqueeze(-1))
            if dx is None:
                continue
            gradient = logits.to(whole.dtype)
            if whole.dtype == wide_weight.dtype:
                torch.mm(gradient, weight, out=dx[part])
            else:
                dx[part] = widened(gradient) @ wide_weight
            if weight.requires_grad:
                made = add_product(weight, gradient, whole[part])
                weight_gradient = made if weight_gradient is None or made is None else weight_gradient + made
            if bias is not None and bias.requires_grad:
                made = add_row_sums(bias, logits)
                bias_gradient = made if bias_gradient is None or made is None else bias_gradient + made
        ctx.region, ctx.is_summed = region, weight.requires_grad and weight_gradient is None
        ctx.save_for_backward(dx, weight_gradient, bias_gradient)
        return loss * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        dx, weight_gradient, bias_gradient = ctx.saved_tensors
        if ctx.is_summed:  # the weight's gradient is in its sum already: a factor that follows would be lost
            torch._assert_async(gradients[0] == 1, "the head's loss must end the graph: put a factor into its scale")
        if weight_gradient is not None:
            weight_gradient = weight_gradient * gradients[0]
        if bias_gradient is not None:
            bias_gradient = bias_gradient * gradients[0]
        return ctx.region.sum_to_rows(dx * gradients[0]), weight_gradient, bias_gradient, None, None, None, None, None


class VocabParallelHead(nn.Module):
    """The output head: it turns rows into the loss, or into logits.

    Args:
        vocab_size: whole number of tokens.
        hidden_size: length of a row.
        axis: the tensor axis.
        weight: the embedding's table when the head is tied to it; a table of its own otherwise.
        std: standard deviation of an own table.
        bias: whether each token has a number that is added to its logit.
        sequence_parallel: whether the rows are cut over the axis between blocks.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        axis: Axis,
        *,
        weight: nn.Parameter | None = None,
        std: float = 0.02,
        bias: bool = False,
        sequence_parallel: bool = False,
    ) -> None:
        """See the class."""
        super().__init__()
        self.region = Region(axis, sequence_parallel)
        positions = {axis.name: axis.rank}
        split = Split(axis.name, 0, vocab_ranges(vocab_size, axis.size))
        self.start = split.ranges[axis.rank][0]
        if weight is None:
            weight = new_parameter(ParamSpec((vocab_size, hidden_size), Init.normal(std), split), positions)
        self.weight = weight
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = new_parameter(ParamSpec((vocab_size,), Init.constant(0.0), split, decay=False), positions)

    def forward(self, x: Tensor, labels: Tensor, scale: float) -> Tensor:
        """Return the sum of the valid tokens' losses times ``scale``; it must be the end of the graph.

        Args:
            x: [n, hidden] rows.
            labels: int64 [t], ``IGNORED`` where nothing is learned.
            scale: 1 / (valid tokens of the global batch): gradients are complete when they are made.

        Returns:
            A scalar, the same on every rank of the axis.
        """
        learned = [x, self.weight, *([] if self.bias is None else [self.bias])]
        learn = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learned)
        loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, labels, scale, self.region, self.start, learn
        )
        return loss

    def logits(self, x: Tensor) -> Tensor:
        """Return this rank's columns of the logits [whole rows, local vocabulary] of rows ``x``."""
        return product(self.region.whole_rows(x), self.weight.t(), self.bias)
