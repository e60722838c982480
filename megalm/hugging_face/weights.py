"""The safetensors files of a Hugging Face directory, of which each rank reads its own slices."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from megalm.boxes import Box
from megalm.checkpoint.piece import Piece
from megalm.errors import UserError, suggestion
from megalm.hugging_face.counterpart import Counterpart
from megalm.hugging_face.region import Region
from megalm.hugging_face.views import as_ours
from megalm.models.config_json import CONFIG

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
"""By safetensors' names: what weights may be."""


def files_of(directory: Path) -> dict[str, str] | None:
    """Return the file of each tensor as the index says, ``None`` where there is no index.

    Raises:
        UserError: the index cannot be read.
    """
    path = directory / INDEX
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): str(file) for name, file in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as an index of tensors ({error}); fetch it again.") from error
    for file in files.values():
        if Path(file).name != file:
            raise UserError(f"{path} names {file!r}, which lies outside of its directory; it is not read.")
    return files


class Weights:
    """A directory's tensors. Files are mapped, not read: what no slice names stays on the disk.

    ``absent`` are our parameters that its files may leave out, and do: they begin as drawn.

    Args:
        directory: as ``save_pretrained`` writes it.
        theirs: the model that it holds.

    Raises:
        UserError: a file is missing or torn, or its tensors are not those of the model.
    """

    def __init__(self, directory: Path, theirs: Counterpart) -> None:
        """See the class."""
        self._directory = directory
        self._regions = theirs.regions
        self._files = {name: _mapped(directory / name) for name in _names(directory)}
        self._file_of = {tensor: file for file, opened in self._files.items() for tensor in list(opened.keys())}
        bare = not any(name.startswith(theirs.base) for name in self._file_of)
        self._left_out = theirs.base if bare else ""
        self._stand_ins = theirs.stand_ins
        self.absent = [name for name, region in theirs.regions.items() if self._actual(region) is None]
        shapes = {actual: region.shape for region in theirs.regions.values() if (actual := self._actual(region))}
        self.dtypes = {self._check(name, shape) for name, shape in shapes.items()}
        for name in self._file_of.keys() - shapes.keys():
            if not theirs.leaves_aside(name):
                raise UserError(f"{directory} holds a tensor {name!r}, for which its model has no place.")

    def read_into(self, pieces: Mapping[str, Piece]) -> None:
        """Fill every part of every piece, and read nothing else; those of ``absent`` stay as they are."""
        for name, piece in pieces.items():
            region = self._regions[name]
            actual = self._actual(region)
            if actual is None:
                continue
            tensor = self._files[self._file_of[actual]].get_slice(actual)
            for offsets, values in piece.without_empty_parts().parts:
                for there, here in region.places(Box(offsets, tuple(values.shape))):
                    values.detach()[here].copy_(as_ours(tensor[there], region))

    def _actual(self, region: Region) -> str | None:
        """Return the name of the tensor in the files that a region is of; ``None`` where they leave it out."""
        name = region.name.removeprefix(self._left_out)
        older = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        if older in self._file_of:
            return older
        return name if name in self._file_of else self._stand_ins.get(region.name, name)

    def _check(self, name: str, shape: tuple[int, ...]) -> torch.dtype:
        """Return the dtype of a tensor that is as the model wants it."""
        if name not in self._file_of:
            near = suggestion(name, self._file_of) or "."
            raise UserError(f"{self._directory} holds no tensor {name!r}, which its model has{near}")
        file = self._file_of[name]
        tensor = self._files[file].get_slice(name)
        if tuple(tensor.get_shape()) != shape:
            raise UserError(
                f"{self._directory / file} holds {name} of shape {tuple(tensor.get_shape())}, and its {CONFIG} "
                f"asks for {shape}; they are not of one model."
            )
        if tensor.get_dtype() not in DTYPES:
            raise UserError(
                f"{self._directory / file} holds {name} as {tensor.get_dtype()}; weights are read from "
                f"{', '.join(DTYPES)}."
            )
        return DTYPES[tensor.get_dtype()]


def _names(directory: Path) -> list[str]:
    """Return the names of a directory's files, all of them there."""
    files = files_of(directory)
    names = [SINGLE] if files is None else sorted(set(files.values()))
    absent = [name for name in names if not (directory / name).is_file()]
    if absent and files is None:
        raise UserError(f"{directory} has neither {SINGLE} nor {INDEX}; weights are read from safetensors only.")
    if absent:
        raise UserError(f"{directory} lacks {absent[0]}, which its {INDEX} names; fetch it again.")
    return names


def _mapped(path: Path) -> Any:
    try:
        opened: Any = safe_open(path, "pt")
        return opened.__enter__()
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is torn, or no safetensors file ({error}); fetch it again.") from error
