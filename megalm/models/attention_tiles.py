"""A sequence cut into tiles of queries, each beside the tiles of keys that it sees. No torch."""

from dataclasses import dataclass
from functools import lru_cache

from megalm.models.attention_pattern import Blocks, Pattern, Window

SMALLEST, LARGEST = 16, 128
"""Queries of a window's tile: small ones see few keys in vain, large ones are few."""


@dataclass(frozen=True)
class TileRows:
    """Tiles of queries that see equally many tiles of keys.

    Args:
        queries: their numbers.
        keys: for each of them the tiles of keys that it sees something of; -1 is none.
        alike: whether where no document ends all of them see the same places of their tiles.
    """

    queries: tuple[int, ...]
    keys: tuple[tuple[int, ...], ...]
    alike: bool


@dataclass(frozen=True)
class Tiling:
    """A cut of a sequence.

    The places are put in ``stride`` rows, 0, stride, 2 stride, ..., then 1, stride + 1, ..., each of whole tiles;
    behind the sequence's last place stands padding.

    Args:
        size: places of a tile.
        stride: how many places are between neighbours of a tile.
        num_tiles: of all rows.
        rows: of which each tile is in one.
    """

    size: int
    stride: int
    num_tiles: int
    rows: tuple[TileRows, ...]


@lru_cache(maxsize=256)
def tiling(pattern: Pattern, length: int, *, causal: bool) -> Tiling:
    """Return the cut of a sequence of ``length`` places for a pattern."""
    if isinstance(pattern, Blocks):
        return _of_blocks(pattern, length, causal=causal)
    return _of_window(pattern, length, causal=causal)


def _of_window(pattern: Window, length: int, *, causal: bool) -> Tiling:
    size = min(max(1 << (pattern.size - 1).bit_length(), SMALLEST), LARGEST)
    places = -(-length // pattern.dilation)
    number, reach = -(-places // size), -(-(pattern.size - 1) // size)
    table = {}
    for start in range(0, number * pattern.dilation, number):
        for tile in range(number):
            near = range(tile - reach, tile + 1 if causal else tile + reach + 1)
            table[start + tile] = tuple(start + other if 0 <= other < number else -1 for other in near)
    padded = number * size * pattern.dilation > length
    last = {start + number - 1 for start in range(0, number * pattern.dilation, number)} if padded else set()
    return Tiling(size, pattern.dilation, number * pattern.dilation, _sorted(table, last, causal=causal))


def _of_blocks(pattern: Blocks, length: int, *, causal: bool) -> Tiling:
    number = -(-length // pattern.size)
    num_global = 0 if causal else min(pattern.num_global, number)
    table = {row: tuple(pattern.slots(row, number, causal=causal)) for row in range(num_global, number)}
    last = {number - 1} if length % pattern.size else set()
    rows = _sorted(table, last, causal=causal)
    if num_global:
        rows = (TileRows(tuple(range(num_global)), (tuple(range(number)),) * num_global, alike=False), *rows)
    return Tiling(pattern.size, 1, number, rows)


def _sorted(table: dict[int, tuple[int, ...]], padded: set[int], *, causal: bool) -> tuple[TileRows, ...]:
    """Put those together that see something in every place of their tiles, but where padding would be seen."""
    whole = [query for query, keys in table.items() if -1 not in keys and (causal or not padded & set(keys))]
    others = [query for query in table if query not in set(whole)]
    return tuple(
        TileRows(tuple(queries), tuple(table[query] for query in queries), alike)
        for queries, alike in ((whole, True), (others, False))
        if queries
    )
