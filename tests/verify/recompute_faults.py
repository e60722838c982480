"""Faults of recomputation, each planted by replacing one thing in the running process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from megalm.batch import MicroBatch
from megalm.models.decoder import DecoderLayer
from megalm.parallel.tensor import recomputed
from megalm.parallel.tensor.cross_entropy import VocabParallelHead
from megalm.parallel.tensor.linear import RowParallelLinear
from megalm.parallel.tensor.norm import LayerNorm


def _dropout_drawn_anew() -> Any:
    """A layer that is computed again draws its dropout anew."""
    original = DecoderLayer.again

    def again(self: DecoderLayer, x: Tensor, batch: MicroBatch) -> Tensor:
        return original(self, x, replace(batch, rows_bs=batch.rows_bs + 1000))

    return mock.patch.object(DecoderLayer, "again", again)


def _head_computed_twice() -> Any:
    """The head is computed again in backward, and adds its weight's gradient a second time."""
    original = VocabParallelHead.forward

    def forward(self: VocabParallelHead, x: Tensor, labels: Tensor, scale: float) -> Tensor:
        loss: Tensor = checkpoint(lambda rows: original(self, rows, labels, scale), x, use_reentrant=False)
        return loss

    return mock.patch.object(VocabParallelHead, "forward", forward)


def _norm_gradient_skipped() -> Any:
    """The first norm of a layer that is computed again gets no gradient."""
    original = DecoderLayer.again

    def again(self: DecoderLayer, x: Tensor, batch: MicroBatch) -> Tensor:
        norm = self.input_layernorm
        assert isinstance(norm, LayerNorm)

        def forward(rows: Tensor) -> Tensor:
            return F.layer_norm(rows, rows.shape[-1:], norm.weight.detach(), norm.bias.detach(), norm.eps)

        with mock.patch.object(norm, "forward", forward):
            return original(self, x, batch)

    return mock.patch.object(DecoderLayer, "again", again)


def _attention_sum_left_out() -> Any:
    """A layer that is computed again leaves out the sum of its attention, which its MLP reads."""
    original = RowParallelLinear.forward

    def again(self: DecoderLayer, x: Tensor, batch: MicroBatch) -> Tensor:
        def unread(layer: RowParallelLinear, rows: Tensor, *, read: bool = True) -> Tensor:
            return original(layer, rows, read=False)

        with mock.patch.object(RowParallelLinear, "forward", unread):
            return self._rows(x, batch, again=True)

    return mock.patch.object(DecoderLayer, "again", again)


def _recomputed_of_another() -> Any:
    """What is computed again is computed from the inputs of the first layer."""
    original, first = recomputed._Values.__init__, list[Sequence[Tensor]]()

    def init(self: recomputed._Values, operation: Callable[..., Tensor], inputs: Sequence[Tensor], *hooks: Any) -> None:
        first.append(inputs)
        original(self, operation, first[0], *hooks)

    return mock.patch.object(recomputed._Values, "__init__", init)


RECOMPUTE_FAULTS: Mapping[str, Callable[[], Any]] = {
    "recomputed dropout drawn anew": _dropout_drawn_anew,
    "head recomputed and counted twice": _head_computed_twice,
    "norm without gradient when recomputed": _norm_gradient_skipped,
    "attention unsummed when recomputed": _attention_sum_left_out,
    "recomputed from another layer's inputs": _recomputed_of_another,
}
