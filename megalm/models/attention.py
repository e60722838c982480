"""Attention with the heads cut over the tensor axis: causal or to both sides, of a sequence to itself or to another."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm import rng
from megalm.batch import MicroBatch, Source
from megalm.kv_cache import KeyValueCache
from megalm.mesh import Axis
from megalm.models.layer_shapes import AttentionShape
from megalm.models.rotary import Rotary
from megalm.models.sparse_attention import Drops, SparseCore, sees_before
from megalm.parallel.tensor.heads import HeadCut
from megalm.parallel.tensor.linear import ColumnParallelLinear, RowParallelLinear, column_products
from megalm.parallel.tensor.product import widened
from megalm.parallel.tensor.recomputed import through
from megalm.recompute import Operation

Sequences = MicroBatch | Source
"""What rows are of: the micro-batch's own sequences, or those that an encoder reads."""


class Attention(nn.Module):
    """Products that make queries, keys and values, the attention core, and the output product.

    Args:
        shape: its sizes.
        axis: the tensor axis.
        rotary: the rotation of queries and keys, or ``None`` where positions are told otherwise.
        causal: whether a query sees no keys after it.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(
        self, shape: AttentionShape, axis: Axis, rotary: Rotary | None, *, causal: bool, sequence_parallel: bool
    ) -> None:
        """See the class."""
        super().__init__()
        cut = HeadCut.of(shape.num_heads, shape.num_key_value_heads, axis.size)
        query_features = cut.features(cut.query, shape.head_dim)
        key_features = cut.features(cut.key, shape.head_dim)

        def projection(num_heads: int, ranges: tuple[tuple[int, int], ...], std: float) -> ColumnParallelLinear:
            return ColumnParallelLinear(
                shape.hidden_size,
                num_heads * shape.head_dim,
                axis,
                bias=shape.qkv_bias,
                std=std,
                ranges=ranges,
                sequence_parallel=sequence_parallel,
            )

        self.q_proj = projection(shape.num_heads, query_features, shape.query_std)
        self.k_proj = projection(shape.num_key_value_heads, key_features, shape.key_value_std)
        self.v_proj = projection(shape.num_key_value_heads, key_features, shape.key_value_std)
        self.o_proj = RowParallelLinear(
            shape.num_heads * shape.head_dim,
            shape.hidden_size,
            axis,
            bias=shape.out_bias,
            std=shape.out_std,
            ranges=query_features,
            sequence_parallel=sequence_parallel,
        )
        self.rotary = rotary
        self.causal = causal
        self.head_dim = shape.head_dim
        self.divisor = shape.divisor
        self.pattern = shape.pattern
        self.num_heads = shape.num_heads
        self.first_head = cut.query[axis.rank][0]
        self.key_of_query = cut.key_of_query(axis.rank)
        self.dropout = shape.dropout
        self.stream = rng.key("unnamed")
        self.recomputed: frozenset[Operation] = frozenset()

    def _attended(
        self, products: Sequence[Tensor], of: Sequences, to: Sequences, bias_hqk: Tensor | None, *, read: bool
    ) -> Tensor:
        """Return the rows [n, hidden] of queries ``of`` some sequences ``to`` keys of the same or of others."""
        biases = [] if bias_hqk is None else [bias_hqk]
        return through(
            lambda q, k, v, *bias: self._between(q, k, v, *bias, of=of, to=to),
            [*products, *biases],
            lambda rows: self.o_proj(rows, read=read),
            recompute="attention_core" in self.recomputed,
        )

    def _between(
        self, q: Tensor, k: Tensor, v: Tensor, bias_hqk: Tensor | None = None, *, of: Sequences, to: Sequences
    ) -> Tensor:
        """Return the rows [b x s, local heads x head size] that the output product reads."""
        q_bshd, k_bshd, v_bshd = (self._heads(rows, each) for rows, each in ((q, of), (k, to), (v, to)))
        if self.rotary is not None:
            q_bshd = self.rotary(q_bshd, of.positions_bs)
            k_bshd = self.rotary(k_bshd, to.positions_bs)
        if (cache := _cache(to)) is not None:
            k_bshd, v_bshd = cache.extended(self, k_bshd, v_bshd)
        if self.key_of_query != list(range(k_bshd.shape[2])):
            heads = torch.tensor(self.key_of_query, device=k_bshd.device)
            k_bshd, v_bshd = k_bshd.index_select(2, heads), v_bshd.index_select(2, heads)
        q_bshd, k_bshd, v_bshd = (widened(t) for t in (q_bshd, k_bshd, v_bshd))
        if self._hides(k_bshd.shape[1]) and q_bshd.shape[1] == k_bshd.shape[1]:
            assert bias_hqk is None
            return self._sparse(of)(q_bshd, k_bshd, v_bshd).to(q.dtype).reshape(of.tokens_bs.numel(), -1)
        q_bhsd, k_bhsd, v_bhsd = (t.transpose(1, 2) for t in (q_bshd, k_bshd, v_bshd))
        core = self._core_with_dropout if self.training and self.dropout > 0 else self._core
        out_bhsd = core(q_bhsd, k_bhsd, v_bhsd, None if bias_hqk is None else bias_hqk.to(q_bhsd.dtype), of, to)
        return out_bhsd.transpose(1, 2).to(q.dtype).reshape(of.tokens_bs.numel(), -1)

    def _heads(self, rows: Tensor, batch: Sequences) -> Tensor:
        b, s = batch.tokens_bs.shape
        return rows[: b * s].view(b, s, -1, self.head_dim)

    def _hides(self, num_keys: int) -> bool:
        """Tell whether the pattern hides any of so many keys."""
        return self.pattern is not None and self.pattern.hides(num_keys, causal=self.causal)

    def _sparse(self, of: Sequences) -> SparseCore:
        """Return the core of a pattern."""
        assert self.pattern is not None
        drops = None
        if self.training and self.dropout > 0:
            drops = Drops(self.dropout, self.stream, of.rows_bs.unsqueeze(2) * self.num_heads + self._own_heads(of))
        return SparseCore(self.pattern, self.causal, self.divisor, of.documents_bs, drops)

    def _own_heads(self, of: Sequences) -> Tensor:
        last = self.first_head + len(self.key_of_query)
        return torch.arange(self.first_head, last, device=of.tokens_bs.device)

    def _core(
        self, q_bhsd: Tensor, k_bhsd: Tensor, v_bhsd: Tensor, bias_hqk: Tensor | None, of: Sequences, to: Sequences
    ) -> Tensor:
        """Attention by the fused kernels, which need no mask where every query sees all, or all before it."""
        num_queries, cache = q_bhsd.shape[2], _cache(to)
        hides = of.documents_bs is not None or to.documents_bs is not None
        mask: Tensor | None = None
        sparse = self._hides(k_bhsd.shape[2])
        if cache is not None and (cache.hides(num_queries) or sparse):
            seen = cache.visible(num_queries, q_bhsd.device)
            if self.pattern is not None and sparse:
                seen = seen & sees_before(self.pattern, cache.places(num_queries, q_bhsd.device), k_bhsd.shape[2])
            mask = seen.unsqueeze(1)
        elif hides or (self.causal and bias_hqk is not None and num_queries > 1):
            mask = visible(of, to, causal=self.causal).unsqueeze(1)
        if bias_hqk is not None:
            bias = bias_hqk.unsqueeze(0)
            mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
        by_order = self.causal and mask is None and num_queries == k_bhsd.shape[2]
        return F.scaled_dot_product_attention(
            q_bhsd, k_bhsd, v_bhsd, attn_mask=mask, is_causal=by_order, scale=1 / self.divisor
        )

    def _core_with_dropout(
        self, q_bhsd: Tensor, k_bhsd: Tensor, v_bhsd: Tensor, bias_hqk: Tensor | None, of: Sequences, to: Sequences
    ) -> Tensor:
        """Attention by plain products: the fused kernels cannot take a mask drawn by position."""
        scores_bhqk = (q_bhsd @ k_bhsd.transpose(-1, -2)).div_(self.divisor)
        if bias_hqk is not None:
            scores_bhqk = scores_bhqk.add_(bias_hqk)
        if self.causal or of.documents_bs is not None or to.documents_bs is not None:
            hidden = ~visible(of, to, causal=self.causal).unsqueeze(1)
            scores_bhqk = scores_bhqk.masked_fill_(hidden, float("-inf"))
        rows_bhq = of.rows_bs.unsqueeze(1) * self.num_heads + self._own_heads(of).view(1, -1, 1)
        keys = torch.arange(k_bhsd.shape[2], device=q_bhsd.device)
        kept = rng.keep_mask(self.stream, rows_bhq, keys, self.dropout).to(q_bhsd.dtype).mul_(1 / (1 - self.dropout))
        out: Tensor = (scores_bhqk.softmax(-1) * kept) @ v_bhsd
        return out


class SelfAttention(Attention):
    """Attention of rows to rows of the same sequences."""

    def forward(
        self, x: Tensor, batch: Sequences, *, bias_hqk: Tensor | None = None, again: bool = False, read: bool = True
    ) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden].

        Args:
            x: the rows.
            batch: what they are of.
            bias_hqk: [local heads, queries, keys], added to the scores after their division.
            again: whether this is computed again for a backward that follows at once.
            read: whether anybody reads the result; see ``RowParallelLinear``.
        """
        products = column_products(x, (self.q_proj, self.k_proj, self.v_proj), keep_whole=again)
        return self._attended(products, batch, batch, bias_hqk, read=read)


class CrossAttention(Attention):
    """Attention of a decoder's rows to an encoder's: each query sees all that belongs to its document."""

    def __init__(self, shape: AttentionShape, axis: Axis, *, sequence_parallel: bool) -> None:
        """See ``Attention``."""
        super().__init__(shape, axis, None, causal=False, sequence_parallel=sequence_parallel)

    def forward(
        self, x: Tensor, encoded: Tensor | None, batch: MicroBatch, *, again: bool = False, read: bool = True
    ) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden].

        Args:
            x: the rows.
            encoded: rows [m, hidden] of the micro-batch's source; ``None`` where its cache has what is needed of them.
            batch: what the rows are of; it has a source.
            again: whether this is computed again for a backward that follows at once.
            read: whether anybody reads the result; see ``RowParallelLinear``.
        """
        assert batch.source is not None
        (queries,) = column_products(x, [self.q_proj], keep_whole=again)

        def make() -> tuple[Tensor, Tensor]:
            assert encoded is not None
            keys, values = column_products(encoded, (self.k_proj, self.v_proj), keep_whole=again)
            return keys, values

        keys, values = make() if batch.cache is None else batch.cache.of_source(self, make)
        return self._attended((queries, keys, values), batch, batch.source, None, read=read)


def _cache(to: Sequences) -> KeyValueCache | None:
    return to.cache if isinstance(to, MicroBatch) else None


def visible(of: Sequences, to: Sequences, *, causal: bool) -> Tensor:
    """Return bool [b or 1, q, k]: which keys each query sees: none of other documents, and where causal no later ones.

    Where only the keys have documents, a query sees all but padding. A query of padding, whose result nobody reads,
    sees padding or more: what sees nothing is not a number.

    Args:
        of: the sequences of the queries.
        to: those of the keys.
        causal: whether a query sees only keys at its place and before.
    """
    q, k = of.tokens_bs.shape[1], to.tokens_bs.shape[1]
    seen = torch.ones(1, q, k, dtype=torch.bool, device=of.tokens_bs.device)
    if causal:
        seen = seen.tril()
    if of.documents_bs is not None and to.documents_bs is not None:
        seen = seen & (of.documents_bs.unsqueeze(2) == to.documents_bs.unsqueeze(1))
        if of is not to:
            seen = seen | (of.documents_bs < 0).unsqueeze(2)
    elif to.documents_bs is not None:
        seen = seen & (to.documents_bs >= 0).unsqueeze(1)
    return seen
