"""Values from the files of a checkpoint into the pieces of any layout."""

import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.utils import _create_file_view

from megalm.checkpoint.piece import Piece
from megalm.checkpoint.tensor_index import TensorIndex
from megalm.errors import UserError, suggestion

THREADS = 4
"""Files that a rank reads at once, for their values or to check them."""


def check_fit(index: TensorIndex, into: Mapping[str, Piece], folder: Path, *, cast: bool) -> None:
    """Refuse pieces of tensors that the checkpoint does not hold, or holds otherwise.

    Raises:
        UserError: names the first of them.
    """
    for name, piece in into.items():
        saved = index.tensors.get(name)
        if saved is None:
            near = suggestion(name, index.tensors) or "."
            raise UserError(f"the checkpoint {folder} holds no tensor {name!r}{near}")
        if tuple(saved.size) != tuple(piece.shape):
            raise UserError(
                f"{name} has shape {tuple(saved.size)} in the checkpoint {folder} and {tuple(piece.shape)} here; load "
                "it into the model that it was saved from."
            )
        if saved.properties.dtype != piece.dtype and not cast:
            raise UserError(
                f"{name} is {saved.properties.dtype} in the checkpoint {folder} and {piece.dtype} here; a run goes on "
                "in the precision it was saved in."
            )


class PieceReader:
    """Copies rectangles out of the files of a checkpoint.

    Each saved rectangle is read once, whole, however many parts want some of it; ``THREADS`` of them are in memory at a
    time. Entries are loaded with ``weights_only``, which builds tensors and nothing else.
    """

    def __init__(self, folder: Path, index: TensorIndex) -> None:
        """See the class."""
        self._folder = folder
        self._index = index

    def read_into(self, pieces: Mapping[str, Piece]) -> None:
        """Fill every part of every piece.

        Raises:
            UserError: a part is not covered by what was saved, or a file does not hold what the index says.
        """
        by_file: dict[str, dict[MetadataIndex, list[tuple[ReadItem, Tensor]]]] = defaultdict(lambda: defaultdict(list))
        for name, piece in pieces.items():
            for item, values in self._items(name, piece):
                place = self._index.places[item.storage_index]
                by_file[place.relative_path][item.storage_index].append((item, values))
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(self._read_file, by_file, by_file.values()))

    def _items(self, name: str, piece: Piece) -> Sequence[tuple[ReadItem, Tensor]]:
        parts = piece.without_empty_parts().parts
        wanted = [ChunkStorageMetadata(torch.Size(offsets), values.size()) for offsets, values in parts]
        items = create_read_items_for_chunk_list(name, self._index.tensors[name], wanted)
        if sum(math.prod(item.lengths) for item in items) != sum(values.numel() for _, values in parts):
            raise UserError(f"the checkpoint {self._folder} does not hold all of {name}; use an earlier one.")
        return [(item, parts[cast(int, item.dest_index.index)][1]) for item in items]

    @torch.no_grad()
    def _read_file(self, file: str, entries: Mapping[MetadataIndex, list[tuple[ReadItem, Tensor]]]) -> None:
        places = self._index.places
        with (self._folder / file).open("rb") as stream:
            for where, wanted in sorted(entries.items(), key=lambda entry: places[entry[0]].offset):
                view = _create_file_view(cast(io.IOBase, stream), places[where].offset, places[where].length)
                saved = self._entry(where, cast(IO[bytes], view))
                for item, values in wanted:
                    into = values.detach()[_box(item.dest_offsets, item.lengths)]
                    into.copy_(saved[_box(item.storage_offsets, item.lengths)])

    def _entry(self, where: MetadataIndex, stream: IO[bytes]) -> Tensor:
        tensor = self._index.tensors[where.fqn]
        sizes = next(chunk.sizes for chunk in tensor.chunks if chunk.offsets == where.offset)
        try:
            saved = torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # a file that was not written by torch.save raises whatever it leads to
            raise UserError(
                f"{self._folder}: the entry of {where.fqn} is refused, it holds something else than a tensor; use "
                "another checkpoint."
            ) from error
        if not isinstance(saved, Tensor) or saved.size() != sizes or saved.dtype != tensor.properties.dtype:
            raise UserError(f"{self._folder}: the entry of {where.fqn} is not the tensor that its index names.")
        return saved


def _box(offsets: Sequence[int], lengths: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(offset, offset + length) for offset, length in zip(offsets, lengths, strict=True))
