"""Which keys a query sees, of those that order and documents leave it. No torch: counts and the planner read it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from megalm.errors import UserError
from megalm.section import Section

_FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "dense": {"needs": (), "may": ()},
    "sliding_window": {"needs": ("window",), "may": ("num_dense_layers",)},
    "dilated": {"needs": ("window", "dilation"), "may": ("num_dense_layers",)},
    "block_sparse": {
        "needs": ("block_size", "num_local_blocks"),
        "may": ("num_global_blocks", "num_random_blocks", "random_seed", "num_dense_layers"),
    },
}
"""The fields of each pattern."""


class AttentionConfig(Section):
    """Which keys a query sees: those before it, or in an encoder on both sides, and of these the ones of a pattern.

    Cost grows with the length of a sequence instead of its square. ``sliding_window`` is that of Mistral (Jiang et al.
    2023); ``dilated`` leaves gaps in it (Beltagy et al. 2020, "Longformer", section 3.1); ``block_sparse`` is made of
    local, global and random blocks (Zaheer et al. 2020, "Big Bird", section 2).
    """

    pattern: Literal["dense", "sliding_window", "dilated", "block_sparse"] = Field(
        description="which keys are seen: all, the nearest, the nearest but with gaps, or whole blocks"
    )
    window: int | None = Field(
        None,
        ge=1,
        description="tokens that a token sees, itself among them, to each side that it sees (sliding_window, dilated)",
    )
    dilation: int | None = Field(None, ge=2, description="one in how many tokens is seen (dilated)")
    block_size: int | None = Field(None, ge=1, description="tokens of a block (block_sparse)")
    num_local_blocks: int | None = Field(
        None,
        ge=1,
        description="nearest blocks that are seen, a token's own among them, to each side that it sees (block_sparse)",
    )
    num_global_blocks: int | None = Field(
        None,
        ge=0,
        description="first blocks of a sequence, which all tokens see, and which see all; 0 by default (block_sparse)",
    )
    num_random_blocks: int | None = Field(
        None, ge=0, description="further blocks that each block sees, drawn for each layer; 0 by default (block_sparse)"
    )
    random_seed: int | None = Field(
        None, ge=0, description="what these are drawn by, in every run of the model alike; 0 by default (block_sparse)"
    )
    num_dense_layers: int | None = Field(None, ge=1, description="first layers of the model, whose tokens see all")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse what a pattern lacks, and what has no effect in it."""
        fields = _FIELDS[self.pattern]
        given = {name for name in type(self).model_fields if getattr(self, name) is not None} - {"pattern"}
        for name in fields["needs"]:
            if name not in given:
                raise UserError(f"model.attention.pattern={self.pattern} needs model.attention.{name}; add it.")
        for name in sorted(given - {*fields["needs"], *fields["may"]}):
            raise UserError(f"model.attention.{name} has no effect with pattern={self.pattern}; remove it.")
        if self.random_seed is not None and not self.num_random_blocks:
            raise UserError("model.attention.random_seed has no effect without num_random_blocks; remove it.")
        return self

    def of_layer(self, layer: int) -> "Pattern | None":
        """Return what a layer's queries see, ``None`` where they see all."""
        if self.pattern == "dense" or layer < (self.num_dense_layers or 0):
            return None
        if self.window is not None:
            return Window(self.window, self.dilation or 1)
        drawn_by = f"{self.random_seed or 0}:{layer}" if self.num_random_blocks else ""
        return Blocks(
            self.block_size or 1,
            self.num_local_blocks or 1,
            self.num_global_blocks or 0,
            self.num_random_blocks or 0,
            drawn_by,
        )


def hiding(config: AttentionConfig | None, layer: int, length: int, *, causal: bool) -> "Pattern | None":
    """Return what a layer's queries see of sequences of some length, ``None`` where their order alone hides keys."""
    pattern = None if config is None else config.of_layer(layer)
    return pattern if pattern is not None and pattern.hides(length, causal=causal) else None


@dataclass(frozen=True)
class Window:
    """A query sees the nearest keys, or one in ``dilation`` of them.

    Args:
        size: keys to each side that it sees, itself among them.
        dilation: places from one to the next.
    """

    size: int
    dilation: int = 1

    def hides(self, length: int, *, causal: bool) -> bool:
        """Tell whether anything is hidden in a sequence beside what the order hides."""
        return length > (1 if self.dilation > 1 else self.size)

    def keys_seen(self, length: int, *, causal: bool) -> int:
        """Return the keys of a query that is far from the ends, at most those of the whole sequence."""
        return min(self.size if causal else 2 * self.size - 1, -(-length // self.dilation))


@dataclass(frozen=True)
class Blocks:
    """A query sees whole blocks: those near it, the first ones, and some that are drawn for its block.

    The first blocks see all. In the order of a sequence what is drawn for a block does not depend on what comes after
    it, so a sequence may grow.

    Args:
        size: tokens of a block.
        num_local: nearest blocks to each side that it sees, its own among them.
        num_global: first blocks.
        num_random: blocks that are drawn of the others.
        drawn_by: names the draws.
    """

    size: int
    num_local: int
    num_global: int
    num_random: int
    drawn_by: str

    def hides(self, length: int, *, causal: bool) -> bool:
        """Tell whether anything is hidden in a sequence beside what the order hides."""
        number = -(-length // self.size)
        rows = range(number - 1, number) if causal else range(number)
        return any(len(self.seen(row, number, causal=causal)) < (row + 1 if causal else number) for row in rows)

    def keys_seen(self, length: int, *, causal: bool) -> int:
        """Return the keys of a query that is far from the ends; of both sides, with a share of those that see all."""
        near = self.num_local if causal else 2 * self.num_local - 1
        few = min((near + self.num_global + self.num_random) * self.size, length)
        if causal:
            return few
        first = min(self.num_global * self.size, length)
        return few + first * (length - few) // length

    def seen(self, row: int, number: int, *, causal: bool) -> list[int]:
        """Return the blocks that one of ``number`` blocks sees, in any order."""
        if row < self.num_global and not causal:
            return list(range(number))
        return [block for block in self.slots(row, number, causal=causal) if block >= 0]

    def slots(self, row: int, number: int, *, causal: bool) -> list[int]:
        """Return as many blocks for each row: those that it sees, and -1 where it sees fewer; its own has one place."""
        first, last = row - self.num_local + 1, row if causal else row + self.num_local - 1
        local = [block if 0 <= block < number else -1 for block in range(first, last + 1)]
        all_see = [block if block < number and block not in local else -1 for block in range(self.num_global)]
        if causal:
            all_see = [block if block < row else -1 for block in all_see]
        others = range(self.num_global, max(first, self.num_global))
        beyond = range(self.num_global, self.num_global) if causal else range(max(last + 1, self.num_global), number)
        drawn = self._drawn(row, [*others, *beyond])
        return [*all_see, *drawn, *[-1] * (self.num_random - len(drawn)), *local]

    def _drawn(self, row: int, others: list[int]) -> list[int]:
        """Draw some of the others, each as likely (Floyd's algorithm, in Bentley and Floyd 1987)."""
        chosen: list[int] = []
        for last in range(max(len(others) - self.num_random, 0), len(others)):
            place = _word(self.drawn_by, row, last) % (last + 1)
            chosen.append(last if place in chosen else place)
        return [others[place] for place in chosen]


Pattern = Window | Blocks
"""What the queries of one layer see."""


def _word(*words: int | str) -> int:
    text = ":".join(map(str, words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
