"""Causal self-attention with the heads cut over the tensor axis."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm import rng
from megalm.batch import MicroBatch
from megalm.mesh import Axis
from megalm.models.decoder_shape import DecoderShape
from megalm.models.rotary import Rotary
from megalm.parallel.tensor.heads import HeadCut
from megalm.parallel.tensor.linear import ColumnParallelLinear, RowParallelLinear, column_products
from megalm.parallel.tensor.product import widened
from megalm.parallel.tensor.recomputed import through
from megalm.recompute import Operation


class Attention(nn.Module):
    """Queries, keys and values, the attention core, and the output product.

    Args:
        shape: the decoder's shape.
        axis: the tensor axis.
        rotary: the rotation, or ``None`` where positions are learned.
        out_std: standard deviation of the output product's weight.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(
        self, shape: DecoderShape, axis: Axis, rotary: Rotary | None, out_std: float, sequence_parallel: bool
    ) -> None:
        """See the class."""
        super().__init__()
        cut = HeadCut.of(shape.num_heads, shape.num_key_value_heads, axis.size)
        query_features = cut.features(cut.query, shape.head_dim)
        key_features = cut.features(cut.key, shape.head_dim)

        def projection(num_heads: int, ranges: tuple[tuple[int, int], ...]) -> ColumnParallelLinear:
            return ColumnParallelLinear(
                shape.hidden_size,
                num_heads * shape.head_dim,
                axis,
                bias=shape.attention_bias,
                std=shape.std,
                ranges=ranges,
                sequence_parallel=sequence_parallel,
            )

        self.q_proj = projection(shape.num_heads, query_features)
        self.k_proj = projection(shape.num_key_value_heads, key_features)
        self.v_proj = projection(shape.num_key_value_heads, key_features)
        self.o_proj = RowParallelLinear(
            shape.num_heads * shape.head_dim,
            shape.hidden_size,
            axis,
            bias=shape.attention_bias,
            std=out_std,
            ranges=query_features,
            sequence_parallel=sequence_parallel,
        )
        self.rotary = rotary
        self.head_dim = shape.head_dim
        self.num_heads = shape.num_heads
        self.first_head = cut.query[axis.rank][0]
        self.key_of_query = cut.key_of_query(axis.rank)
        self.dropout = shape.attention_dropout
        self.stream = rng.key("unnamed")
        self.recomputed: frozenset[Operation] = frozenset()

    def forward(self, x: Tensor, batch: MicroBatch, *, again: bool = False, read: bool = True) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden].

        Args:
            x: the rows.
            batch: their tokens.
            again: whether this is computed again for a backward that follows at once.
            read: whether anybody reads the result; see ``RowParallelLinear``.
        """
        products = column_products(x, (self.q_proj, self.k_proj, self.v_proj), keep_whole=again)
        return through(
            lambda *rows: self._between(rows, batch),
            products,
            lambda rows: self.o_proj(rows, read=read),
            recompute="attention_core" in self.recomputed,
        )

    def _between(self, products: Sequence[Tensor], batch: MicroBatch) -> Tensor:
        """Return the rows [b x s, local heads x head size] that the output product reads."""
        b, s = batch.tokens_bs.shape
        q_bshd, k_bshd, v_bshd = (rows[: b * s].view(b, s, -1, self.head_dim) for rows in products)
        if self.rotary is not None:
            q_bshd = self.rotary(q_bshd, batch.positions_bs)
            k_bshd = self.rotary(k_bshd, batch.positions_bs)
        if self.key_of_query != list(range(k_bshd.shape[2])):
            heads = torch.tensor(self.key_of_query, device=k_bshd.device)
            k_bshd, v_bshd = k_bshd.index_select(2, heads), v_bshd.index_select(2, heads)
        out_bshd = self._core(q_bshd, k_bshd, v_bshd, batch).to(products[0].dtype)
        return out_bshd.reshape(b * s, -1)

    def _core(self, q_bshd: Tensor, k_bshd: Tensor, v_bshd: Tensor, batch: MicroBatch) -> Tensor:
        q_bhsd, k_bhsd, v_bhsd = (widened(t).transpose(1, 2) for t in (q_bshd, k_bshd, v_bshd))
        if self.training and self.dropout > 0:
            return self._core_with_dropout(q_bhsd, k_bhsd, v_bhsd, batch).transpose(1, 2)
        if batch.documents_bs is None:
            out_bhsd = F.scaled_dot_product_attention(q_bhsd, k_bhsd, v_bhsd, is_causal=True)
        else:
            out_bhsd = F.scaled_dot_product_attention(q_bhsd, k_bhsd, v_bhsd, attn_mask=visible(batch).unsqueeze(1))
        return out_bhsd.transpose(1, 2)

    def _core_with_dropout(self, q_bhsd: Tensor, k_bhsd: Tensor, v_bhsd: Tensor, batch: MicroBatch) -> Tensor:
        """Attention by plain products: the fused kernels cannot take a mask drawn by position."""
        scores_bhqk = (q_bhsd @ k_bhsd.transpose(-1, -2)).div_(math.sqrt(self.head_dim))
        scores_bhqk = scores_bhqk.masked_fill_(~visible(batch).unsqueeze(1), float("-inf"))
        heads = torch.arange(self.first_head, self.first_head + q_bhsd.shape[1], device=q_bhsd.device)
        rows_bhq = batch.rows_bs.unsqueeze(1) * self.num_heads + heads.view(1, -1, 1)
        keys = torch.arange(k_bhsd.shape[2], device=q_bhsd.device)
        kept = rng.keep_mask(self.stream, rows_bhq, keys, self.dropout).to(q_bhsd.dtype).mul_(1 / (1 - self.dropout))
        out: Tensor = (scores_bhqk.softmax(-1) * kept) @ v_bhsd
        return out


def visible(batch: MicroBatch) -> Tensor:
    """Return bool [b, s, s]: which keys (last) each query sees: no later ones, and none of other documents."""
    s = batch.tokens_bs.shape[1]
    earlier = torch.ones(s, s, dtype=torch.bool, device=batch.tokens_bs.device).tril()
    if batch.documents_bs is None:
        return earlier.unsqueeze(0)
    return earlier & (batch.documents_bs.unsqueeze(2) == batch.documents_bs.unsqueeze(1))
