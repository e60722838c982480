"""Who writes what: every rectangle once, each rank about as much as the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from megalm.checkpoint.piece import Piece

FILES_PER_RANK = 4
"""A rank writes, and later any rank checks, so many files at once."""
SMALLEST_FILE = 32 * 2**20
"""Bytes below which one more file is not worth it."""

Description = dict[str, tuple[Sequence[int], str, Sequence[tuple[Sequence[int], Sequence[int]]]]]
"""By tensor name: whole shape, dtype, and for each part its offsets and sizes."""


class PiecePlanner(DefaultSavePlanner):
    """torch's planner over pieces; it finds the values of a rectangle when they are written."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._values = {(name, offsets): values for name, piece in pieces.items() for offsets, values in piece.parts}

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """Return the values of the rectangle at ``index``."""
        return self._values[index.fqn, tuple(cast(torch.Size, index.offset))]

    def values_alone(self, index: MetadataIndex) -> Tensor:
        """Return the values at ``index`` in this machine's memory and in a storage of their own, as torch saves it."""
        values = self.lookup_object(index).detach()
        alone = values.is_cpu and values.is_contiguous() and values.untyped_storage().nbytes() == values.nbytes
        return values if alone else values.to("cpu", copy=True, memory_format=torch.contiguous_format)

    def copy_values(self, plans: Sequence[SavePlan]) -> None:
        """Keep copies, in this machine's memory, of the values that the plans name, and let go of all others."""
        wanted = [(item.index.fqn, tuple(cast(torch.Size, item.index.offset))) for plan in plans for item in plan.items]
        self._values = {
            key: self._values[key].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for key in wanted
        }


@dataclass(frozen=True)
class Plan:
    """What each file holds, ``FILES_PER_RANK`` for each rank in order (some of them empty), and the index of it all."""

    files: Sequence[SavePlan]
    index: Metadata

    def of_rank(self, rank: int) -> slice:
        """Return where the files of a rank stand."""
        return slice(rank * FILES_PER_RANK, (rank + 1) * FILES_PER_RANK)


def describe(pieces: Mapping[str, Piece]) -> Description:
    """Return, as JSON-able values, what this rank can write."""
    return {
        name: (
            piece.shape,
            str(piece.dtype).removeprefix("torch."),
            [(offsets, tuple(values.shape)) for offsets, values in piece.parts],
        )
        for name, piece in pieces.items()
    }


def make_plan(descriptions: Sequence[Description], planner: PiecePlanner) -> Plan:
    """Return the plan that every rank makes alike from what all ranks can write.

    Raises:
        ValueError: the pieces do not make up whole tensors, each element once.
    """
    whole = _whole_tensors(descriptions)
    _check_cover(whole, descriptions)
    offers = [SavePlan([item for name in offer for item in _items(name, offer, whole)]) for offer in descriptions]
    by_rank, index = planner.create_global_plan(offers)
    for name, tensor in whole.items():  # a tensor without elements has no rectangles
        index.state_dict_metadata.setdefault(name, tensor)
    return Plan([file for plan in by_rank for file in _cut_into_files(plan)], index)


def _whole_tensors(descriptions: Sequence[Description]) -> dict[str, TensorStorageMetadata]:
    whole: dict[str, TensorStorageMetadata] = {}
    for rank, description in enumerate(descriptions):
        for name, (shape, dtype, _) in description.items():
            mine = TensorStorageMetadata(TensorProperties(getattr(torch, dtype)), torch.Size(shape), [])
            if whole.setdefault(name, mine) != mine:
                raise ValueError(f"{name}: rank {rank} saves {dtype} {tuple(shape)}, a lower rank something else")
    return whole


def _check_cover(whole: Mapping[str, TensorStorageMetadata], descriptions: Sequence[Description]) -> None:
    """Replicas agree in size and the rest adds up; that no two rectangles overlap is seen by torch's planner."""
    rectangles: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {name: {} for name in whole}
    for description in descriptions:
        for name, (_, _, parts) in description.items():
            for offsets, sizes in parts:
                if rectangles[name].setdefault(tuple(offsets), tuple(sizes)) != tuple(sizes):
                    raise ValueError(f"{name}: two ranks save rectangles of different sizes from {tuple(offsets)} on")
    for name, tensor in whole.items():
        saved = sum(math.prod(sizes) for sizes in rectangles[name].values())
        if saved != math.prod(tensor.size):
            raise ValueError(f"{name}: the ranks save {saved} of its {math.prod(tensor.size)} elements")


def _items(name: str, description: Description, whole: Mapping[str, TensorStorageMetadata]) -> list[WriteItem]:
    tensor = whole[name]
    return [
        WriteItem(
            MetadataIndex(name, offsets),
            WriteItemType.SHARD,
            tensor_data=TensorWriteData(
                ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)), tensor.properties, tensor.size
            ),
        )
        for offsets, sizes in description[name][2]
    ]


def _cut_into_files(plan: SavePlan) -> list[SavePlan]:
    """Deal the items of one rank out, the largest first, each to the file with the fewest bytes."""
    sized = sorted(((_num_bytes(item), item) for item in plan.items), key=lambda pair: -pair[0])
    total = sum(size for size, _ in sized)
    used = min(FILES_PER_RANK, max(1, total // SMALLEST_FILE))
    items: list[list[WriteItem]] = [[] for _ in range(FILES_PER_RANK)]
    filled = [0] * used
    for size, item in sized:
        file = filled.index(min(filled))
        items[file].append(item)
        filled[file] += size
    return [replace(plan, items=held) for held in items]


def _num_bytes(item: WriteItem) -> int:
    data = cast(TensorWriteData, item.tensor_data)
    return data.chunk.sizes.numel() * data.properties.dtype.itemsize
