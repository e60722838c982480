"""Attention of which each query sees few keys: tile by tile, with time and memory that grow with the length alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megalm import rng
from megalm.models.attention_pattern import Blocks, Pattern
from megalm.models.attention_tiles import Tiling, tiling

_WORKING_NUMBERS = 1 << 20
"""Of keys, or of scores, that are in memory at once; a fixed number of them, whatever the length."""
_NO_DOCUMENT = -2


@dataclass(frozen=True)
class Drops:
    """How probabilities are dropped: drawn by the query's number in the run and the key's place, as elsewhere.

    Args:
        p: the share.
        stream: of the draws.
        rows_bsh: int64 [b, s, local heads], the number of each query and head.
    """

    p: float
    stream: int
    rows_bsh: Tensor


@dataclass(frozen=True)
class SparseCore:
    """The attention core of one layer and micro-batch.

    Args:
        pattern: which keys are seen.
        causal: whether no later ones are.
        divisor: of the scores.
        documents_bs: as in a micro-batch.
        drops: of the probabilities, where some do.
    """

    pattern: Pattern
    causal: bool
    divisor: float
    documents_bs: Tensor | None = None
    drops: Drops | None = None

    def __call__(self, q_bshd: Tensor, k_bshd: Tensor, v_bshd: Tensor) -> Tensor:
        """Return the rows [b, s, heads, head size] of a sequence's queries to its own keys and values."""
        out: Tensor = _TileByTile.apply(q_bshd, k_bshd, v_bshd, self)  # type: ignore[no-untyped-call]
        return out


class _TileByTile(torch.autograd.Function):
    """Keeps queries, keys and values alone; a tile's forward is run again in its backward."""

    @staticmethod
    def forward(ctx: Any, q_bshd: Tensor, k_bshd: Tensor, v_bshd: Tensor, core: SparseCore) -> Tensor:
        ctx.save_for_backward(q_bshd, k_bshd, v_bshd)
        ctx.core = core
        work = _Work(core, q_bshd.shape[1])
        q, k, v = (work.tiled(tensor) for tensor in (q_bshd, k_bshd, v_bshd))
        out = torch.empty_like(q)
        for part in work.parts(q):
            out.index_copy_(1, part.queries, part.rows(*part.inputs(q, k, v)))
        return work.untiled(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_bshd, k_bshd, v_bshd = ctx.saved_tensors
        work = _Work(ctx.core, q_bshd.shape[1])
        q, k, v, d_out = (work.tiled(tensor) for tensor in (q_bshd, k_bshd, v_bshd, *gradients))
        d_q = torch.empty_like(q)
        wide = torch.promote_types(k.dtype, torch.float32)
        d_k, d_v = (torch.zeros_like(tensor, dtype=wide) for tensor in (k, v))
        for part in work.parts(q):
            inputs = [tensor.detach().requires_grad_() for tensor in part.inputs(q, k, v)]
            with torch.enable_grad():
                out = part.rows(*inputs)
            of_q, of_k, of_v = torch.autograd.grad(out, inputs, d_out.index_select(1, part.queries))
            d_q.index_copy_(1, part.queries, of_q)
            d_k.index_add_(1, part.keys, of_k.to(wide))
            d_v.index_add_(1, part.keys, of_v.to(wide))
        d_k, d_v = (tensor.to(k.dtype) for tensor in (d_k, d_v))
        return *(work.untiled(tensor) for tensor in (d_q, d_k, d_v)), None


class _Work:
    """The cut of one core's sequences."""

    def __init__(self, core: SparseCore, length: int) -> None:
        self.core, self.length = core, length
        self.tiling: Tiling = tiling(core.pattern, length, causal=core.causal)
        self._padded = self.tiling.num_tiles * self.tiling.size

    def tiled(self, of_bs: Tensor, padding: float = 0) -> Tensor:
        """Return [b, tiles, size, ...] of [b, s, ...]."""
        b, s, *rest = of_bs.shape
        if s < self._padded:
            of_bs = torch.cat([of_bs, of_bs.new_full((b, self._padded - s, *rest), padding)], 1)
        if self.tiling.stride > 1:
            of_bs = of_bs.unflatten(1, (-1, self.tiling.stride)).transpose(1, 2)
        return of_bs.reshape(b, self.tiling.num_tiles, self.tiling.size, *rest)

    def untiled(self, tiles: Tensor) -> Tensor:
        """Return [b, s, ...] of [b, tiles, size, ...], in memory of its own."""
        of_bs: Tensor = tiles.flatten(1, 2)
        if self.tiling.stride > 1:
            of_bs = of_bs.unflatten(1, (self.tiling.stride, -1)).transpose(1, 2).flatten(1, 2)
        return of_bs if self.length == self._padded else of_bs[:, : self.length].clone()

    def parts(self, q: Tensor) -> Iterator["_Part"]:
        """Cut the tiles [b, tiles, size, heads, head size] into parts that fit the working memory."""
        b, _, size, heads, head_dim = q.shape
        documents, drops = self.core.documents_bs, self.core.drops
        documents = None if documents is None else self.tiled(documents, _NO_DOCUMENT)
        drawn = None if drops is None else self.tiled(drops.rows_bsh)
        for rows in self.tiling.rows:
            room = max(_WORKING_NUMBERS // (b * heads * len(rows.keys[0]) * size * max(head_dim, size)), 1)
            for first in range(0, len(rows.queries), room):
                queries = torch.tensor(rows.queries[first : first + room], device=q.device)
                table = torch.tensor(rows.keys[first : first + room], device=q.device)
                seen = self._seen(queries, table, b, documents, rows.alike)
                kept = None if drawn is None else self._kept(queries, table, drawn, q.dtype)
                keys = table.clamp(min=0).flatten()
                yield _Part(queries, keys, seen, kept, self.core.divisor)

    def _seen(self, queries: Tensor, table: Tensor, b: int, documents: Tensor | None, alike: bool) -> Tensor:
        """Return bool [b x c or 1, 1, size, k x size]: which keys are seen; padding sees itself at least."""
        if alike and documents is None:
            queries, table, b = queries[:1], table[:1], 1
        keys = table.clamp(min=0)
        q_places, k_places = self._places(queries).unsqueeze(2), self._places(keys).flatten(1).unsqueeze(1)
        seen = sees(self.core.pattern, q_places, k_places, causal=self.core.causal)
        seen = seen & ((k_places < self.length) | (q_places >= self.length))
        seen = seen & (table >= 0).repeat_interleave(self.tiling.size, 1).unsqueeze(1)
        if documents is not None:
            of_q = documents.index_select(1, queries).unsqueeze(3)
            of_k = documents.index_select(1, keys.flatten()).view(len(documents), len(queries), 1, -1)
            return (seen & (of_q == of_k)).flatten(0, 1).unsqueeze(1)
        return seen.repeat(b, 1, 1).unsqueeze(1)

    def _kept(self, queries: Tensor, table: Tensor, drawn: Tensor, dtype: torch.dtype) -> Tensor:
        """Return [b x c, heads, size, k x size]: what probabilities are multiplied by."""
        drops = self.core.drops
        assert drops is not None
        rows_bchs = drawn.index_select(1, queries).transpose(2, 3)
        k_places = self._places(table.clamp(min=0)).flatten(1)[:, None, None]
        kept = rng.keep_mask(drops.stream, rows_bchs, k_places, drops.p).flatten(0, 1)
        return kept.to(dtype).mul_(1 / (1 - drops.p))

    def _places(self, tiles: Tensor) -> Tensor:
        """Return the places [..., size] of tiles."""
        size, stride = self.tiling.size, self.tiling.stride
        row, tile = tiles // (self.tiling.num_tiles // stride), tiles % (self.tiling.num_tiles // stride)
        within = torch.arange(size, device=tiles.device)
        return row.unsqueeze(-1) + stride * (tile.unsqueeze(-1) * size + within)


@dataclass(frozen=True)
class _Part:
    """Some tiles of queries, and those of keys that each sees.

    Args:
        queries: int64 [c], tiles.
        keys: int64 [c x k], tiles.
        seen: bool, broadcasts to [b x c, heads, size, k x size].
        kept: what probabilities of that shape are multiplied by.
        divisor: of the scores.
    """

    queries: Tensor
    keys: Tensor
    seen: Tensor
    kept: Tensor | None
    divisor: float

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        """Return the tiles [b, c or c x k, size, heads, head size] of the part."""
        return [q.index_select(1, self.queries), *(tensor.index_select(1, self.keys) for tensor in (k, v))]

    def rows(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the rows of the part's queries, tiled as they are."""
        b, c = q.shape[:2]
        q_bhsd = q.flatten(0, 1).transpose(1, 2)
        k_bhsd, v_bhsd = (t.unflatten(1, (c, -1)).flatten(0, 1).flatten(1, 2).transpose(1, 2) for t in (k, v))
        if self.kept is None:
            out = F.scaled_dot_product_attention(q_bhsd, k_bhsd, v_bhsd, attn_mask=self.seen, scale=1 / self.divisor)
        else:
            scores = (q_bhsd @ k_bhsd.transpose(-1, -2)).div_(self.divisor)
            out = (scores.masked_fill_(~self.seen, float("-inf")).softmax(-1) * self.kept) @ v_bhsd
        rows: Tensor = out.transpose(1, 2).unflatten(0, (b, c))
        return rows


def sees(pattern: Pattern, q_places: Tensor, k_places: Tensor, *, causal: bool) -> Tensor:
    """Return bool, of broadcast places: whether a query sees a key of a block that it sees any of."""
    ahead = q_places - k_places
    seen = ahead >= 0 if causal else torch.ones_like(ahead, dtype=torch.bool)
    if isinstance(pattern, Blocks):
        return seen
    seen = seen & (ahead.abs() < pattern.size * pattern.dilation)
    return seen if pattern.dilation == 1 else seen & (ahead % pattern.dilation == 0)


def sees_before(pattern: Pattern, q_places: Tensor, num_keys: int) -> Tensor:
    """Return bool [..., num_keys]: which of the first keys of a sequence queries at some places see in its order."""
    keys = torch.arange(num_keys, device=q_places.device)
    seen = sees(pattern, q_places.unsqueeze(-1), keys, causal=True)
    if not isinstance(pattern, Blocks):
        return seen
    number = -(-num_keys // pattern.size)
    rows = q_places // pattern.size
    of_block = torch.zeros(number, number, dtype=torch.bool)
    for row in set(rows.flatten().tolist()):
        of_block[row, pattern.seen(row, number, causal=True)] = True
    return seen & of_block.to(keys.device)[rows][..., keys // pattern.size]
