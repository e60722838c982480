"""Reading DCP's ``.metadata``: which rectangle of which tensor lies where. It is a pickle, and a pickle is a program.

So it is read by an unpickler that knows only the classes of which such an index is made and refuses all others by name,
and what it returns is checked before anything follows it to a file.
"""

import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from megalm.checkpoint.manifest import TENSOR_INDEX, Damaged

_DCP = "torch.distributed.checkpoint"
ALLOWED = frozenset(
    {
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        (f"{_DCP}.filesystem", "_StorageInfo"),
        (f"{_DCP}.metadata", "ChunkStorageMetadata"),
        (f"{_DCP}.metadata", "Metadata"),
        (f"{_DCP}.metadata", "MetadataIndex"),
        (f"{_DCP}.metadata", "StorageMeta"),
        (f"{_DCP}.metadata", "TensorProperties"),
        (f"{_DCP}.metadata", "TensorStorageMetadata"),
        (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"),
    }
)
"""The (module, name) pairs that an index of tensors holds, beside torch's dtypes."""


@dataclass(frozen=True)
class TensorIndex:
    """What a checkpoint holds: each tensor by name with its rectangles, and the place of each rectangle."""

    tensors: Mapping[str, TensorStorageMetadata]
    places: Mapping[MetadataIndex, _StorageInfo]


class _TensorIndexUnpickler(pickle.Unpickler):
    """An unpickler that can build an index of tensors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class if an index may hold it."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in ALLOWED:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):  # by which Python 3.11.2 writes a member of an enumeration
            return _member
        raise Damaged(f"{TENSOR_INDEX} asks for {module}.{name}, which no index of tensors holds; it was not run")


def _member(kind: Any, name: Any) -> _MEM_FORMAT_ENCODING:
    """Return a member of the one enumeration that an index holds."""
    if kind is not _MEM_FORMAT_ENCODING or name not in _MEM_FORMAT_ENCODING.__members__:
        raise Damaged(f"{TENSOR_INDEX} asks for {name!r} of {kind!r}, which no index of tensors holds; it was not run")
    return _MEM_FORMAT_ENCODING[name]


def read_tensor_index(folder: Path, files: Collection[str]) -> TensorIndex:
    """Return the index of the checkpoint in ``folder``.

    Args:
        files: the files that it may point into.

    Raises:
        Damaged: it holds more than an index of tensors, or points elsewhere.
    """
    try:
        with (folder / TENSOR_INDEX).open("rb") as file:
            return _checked(_TensorIndexUnpickler(file).load(), files)
    except Damaged:
        raise
    except Exception as error:  # broken pickles raise whatever the broken place leads to
        raise Damaged(f"{TENSOR_INDEX} cannot be read ({type(error).__name__}: {error})") from error


def _checked(index: Any, files: Collection[str]) -> TensorIndex:
    if not (isinstance(index, Metadata) and isinstance(index.storage_data, dict)):
        raise Damaged(f"{TENSOR_INDEX} is no index of tensors")
    places: dict[MetadataIndex, _StorageInfo] = index.storage_data
    tensors: dict[str, TensorStorageMetadata] = {}
    for name, tensor in index.state_dict_metadata.items():
        if not isinstance(tensor, TensorStorageMetadata):
            raise Damaged(f"{TENSOR_INDEX} says that {name} is no tensor; only tensors are loaded")
        for chunk in tensor.chunks:
            _check_place(MetadataIndex(name, chunk.offsets), places, files)
        tensors[name] = tensor
    return TensorIndex(tensors, places)


def _check_place(where: MetadataIndex, places: Mapping[MetadataIndex, _StorageInfo], files: Collection[str]) -> None:
    if where not in places:
        raise Damaged(f"{TENSOR_INDEX} does not say where {where.fqn} lies from {where.offset} on")
    if places[where].relative_path not in files:
        raise Damaged(
            f"{TENSOR_INDEX} looks for {where.fqn} in {places[where].relative_path!r}, which is not of the checkpoint"
        )
