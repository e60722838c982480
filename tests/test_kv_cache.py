"""Oracle: for each sequence a plain list of its keys and values."""

import torch
from torch import Tensor

from megalm.kv_cache import KeyValueCache

HEADS, HEAD_DIM = 2, 3


class Lists:
    """The same in lists, beside a cache with memory full of what is not a number."""

    def __init__(self, num_sequences: int, room: int) -> None:
        self.cache = KeyValueCache(num_sequences, room)
        self.kept: dict[str, list[Tensor]] = {}
        self._drawn = torch.Generator().manual_seed(1)

    def read(self, counts: list[int]) -> None:
        """Let two layers read new tokens, padded to the longest, and compare what they see."""
        s = max(counts)
        for layer in ("first", "second"):
            new_bshd = torch.randn(len(counts), s, HEADS, HEAD_DIM, generator=self._drawn)
            k_bshd, v_bshd = self.cache.extended(layer, new_bshd, -new_bshd)
            if not any(self.cache.lengths):
                self.kept[layer] = [torch.empty(0, HEADS, HEAD_DIM)] * len(counts)
            grown = [torch.cat([old, new]) for old, new in zip(self.kept[layer], new_bshd, strict=True)]
            seen_bqk = self.cache.visible(s, new_bshd.device)
            for row, (old, whole) in enumerate(zip(self.kept[layer], grown, strict=True)):
                assert torch.equal(k_bshd[row, : len(whole)], whole)
                assert torch.equal(v_bshd[row, : len(whole)], -whole)
                assert not v_bshd[row].isnan().any()
                assert seen_bqk[row].sum(1).tolist() == [len(old) + place + 1 for place in range(s)]
                assert seen_bqk[row].int().diff(dim=1).max() <= 0  # the first so many, none behind
            self.kept[layer] = [
                whole[: len(old) + count] for old, whole, count in zip(self.kept[layer], grown, counts, strict=True)
            ]
        self.cache.advance(counts)

    def select(self, parents: list[int]) -> None:
        self.cache.select(parents)
        self.kept = {layer: [kept[parent] for parent in parents] for layer, kept in self.kept.items()}


def test_ragged_sequences_that_are_dropped_and_doubled() -> None:
    torch.use_deterministic_algorithms(True)  # which also fills new memory with what is not a number
    try:
        lists = Lists(3, 16)
        lists.read([3, 1, 5])
        lists.read([1, 1, 1])
        lists.select([2, 0, 0, 1])
        lists.read([1, 1, 1, 1])
        lists.select([1, 2])  # of one length
        lists.read([1, 1])
        lists.read([3, 2])
        lists.read([2, 2])
    finally:
        torch.use_deterministic_algorithms(False)
    assert lists.cache.lengths == [11, 10]


def test_a_mask_is_needed_only_where_order_does_not_say_all() -> None:
    cache = KeyValueCache(2, 16)
    assert not cache.hides(5)
    cache.advance([5, 5])
    assert not cache.hides(1)
    assert cache.hides(2)
    cache.advance([1, 0])
    assert cache.hides(1)
