"""The memory in which one tile at a time is wide, and its ways from codes and back to them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from megalm.optim.blocks import BLOCK_SIZE
from megalm.optim.dynamic_map import DynamicMap
from megalm.optim.quantized_state import Tile
from megalm.param_spec import aligned

_SMALLEST = 2.0**-149
"""The smallest float32 above 0, by which blocks of zeros are divided."""


class TileMemory:
    """Memory for one tile at a time, as long as the longest.

    Args:
        names: of the wide tensors: values, gradients and what a rule keeps.
        room: elements of the longest tile, to whole vectors.
        like: of the dtype and device of the values.
    """

    def __init__(self, names: Sequence[str], room: int, like: Tensor) -> None:
        """See the class."""
        self._names = names
        self._flat = {name: like.new_empty(room) for name in names}
        self._narrow = None if like.dtype == torch.float32 else like.new_empty(room, dtype=torch.float32)
        self._spare = like.new_empty(room, dtype=torch.int32), like.new_empty(room, dtype=torch.int32)
        self._views: dict[tuple[int, int, int], WideTile] = {}

    def of(self, tile: Tile) -> "WideTile":
        """Return the memory as a tile sees it, of any content; another tile's is lost."""
        if tile.form not in self._views:
            self._views[tile.form] = WideTile(tile, self._flat, self._narrow, self._spare)
        return self._views[tile.form]


class WideTile:
    """Memory as the tiles of one form see it.

    Attributes:
        padded: of each name, the tile and zeros behind it to whole vectors: kernels may treat the elements left over at
            the end of a range otherwise in the last bit.
        flat: of each name, the tile.
        absmax: one number for each block, as wide as the values.
    """

    def __init__(
        self, tile: Tile, memory: dict[str, Tensor], narrow: Tensor | None, spare: tuple[Tensor, Tensor]
    ) -> None:
        """See the class."""
        size = tile.num_elements
        self.padded = {name: flat[: aligned(size)] for name, flat in memory.items()}
        self.flat = {name: flat[:size] for name, flat in memory.items()}
        self.absmax = next(iter(memory.values())).new_empty(tile.absmax.stop - tile.absmax.start)
        self._behind = [flat[size : aligned(size)] for flat in memory.values()] if aligned(size) > size else []
        self._spare = spare[0][:size], spare[1][:size]
        self._narrow = {name: flat if narrow is None else narrow[:size] for name, flat in self.flat.items()}
        self._blocks = {name: list(_by_block(tile, flat)) for name, flat in self.flat.items()}
        rows = self.absmax.view(tile.rows, -1, 1)
        counts = [part.shape[1] for part in next(iter(self._blocks.values()))]
        self._absmax_of_blocks = rows.split(counts, 1)

    def fill(self, values: Tensor, gradients: Tensor) -> None:
        """Copy values and gradients."""
        for behind in self._behind:
            behind.zero_()
        self.flat["values"].copy_(values)
        self.flat["gradients"].copy_(gradients)

    def widen(self, name: str, codes: Tensor, absmax: Tensor, by: DynamicMap) -> None:
        """Make codes wide: numbers of the map times the absmax of their block."""
        by.numbers(codes, out=self._narrow[name], spare=self._spare[0])
        if self._narrow[name] is not self.flat[name]:
            self.flat[name].copy_(self._narrow[name])
        self.absmax.copy_(absmax)
        for numbers, largest in zip(self._blocks[name], self._absmax_of_blocks, strict=True):
            numbers.mul_(largest)

    def find_absmax(self, name: str) -> Tensor:
        """Return ``absmax``, the largest absolute number of each block; the gradients are lost."""
        torch.abs(self.flat[name], out=self.flat["gradients"])
        for numbers, largest in zip(self._blocks["gradients"], self._absmax_of_blocks, strict=True):
            torch.amax(numbers, -1, keepdim=True, out=largest)
        return self.absmax

    def round(self, name: str, codes: Tensor, absmax: Tensor, by: DynamicMap) -> None:
        """Write wide numbers as codes and ``absmax``, which are taken as they are; the numbers are lost."""
        absmax.copy_(self.absmax)
        self.absmax.copy_(absmax).clamp_(min=_SMALLEST)
        for numbers, largest in zip(self._blocks[name], self._absmax_of_blocks, strict=True):
            numbers.div_(largest)
        if self._narrow[name] is not self.flat[name]:
            self._narrow[name].copy_(self.flat[name])
        by.codes(self._narrow[name], out=codes, spare=self._spare)


def _by_block(tile: Tile, flat: Tensor) -> Iterator[Tensor]:
    """Yield views [rows, blocks, width], up to three: the end of a block, whole blocks, the beginning of a block."""
    elements, start = flat.view(tile.rows, tile.width), 0
    head = min(-tile.first % BLOCK_SIZE, tile.width)
    whole = (tile.width - head) // BLOCK_SIZE
    for num_blocks, width in ((1, head), (whole, BLOCK_SIZE), (1, (tile.width - head) % BLOCK_SIZE)):
        if num_blocks and width:
            part = elements[:, start : start + num_blocks * width]
            yield part.unflatten(1, (num_blocks, width))
            start += num_blocks * width
