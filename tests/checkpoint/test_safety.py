"""Oracle: a file that a planted program would have made; it must not be there after a refusal."""

import enum
import io
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, TensorStorageMetadata

from megalm.checkpoint.manifest import FACTS, MANIFEST, MARK, TENSOR_INDEX, Fingerprint, Manifest, fingerprint, mark_of
from megalm.checkpoint.store import open_checkpoint
from megalm.errors import UserError
from megalm.mesh import Axis
from tests.checkpoint.tensors import alone, check_whole, everything, model, save


class Program:
    """A pickle of this runs a shell command where it is loaded."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "checkpoints", 1)
    return tmp_path / "checkpoints" / "step-00000001"


def seal(folder: Path) -> None:
    """Make the fingerprints agree with what the folder holds now, as whoever planted it would."""
    own = (MANIFEST, MARK)
    files: dict[str, Fingerprint] = {
        path.name: fingerprint(path) for path in folder.iterdir() if path.is_file() and path.name not in own
    }
    (folder / MANIFEST).write_text(Manifest(1, files).to_json())
    (folder / MARK).write_text(mark_of(fingerprint(folder / MANIFEST)))


def index_of(folder: Path) -> Metadata:
    index = pickle.loads((folder / TENSOR_INDEX).read_bytes())
    assert isinstance(index, Metadata)
    return index


def plant(folder: Path, index: Any) -> None:
    (folder / TENSOR_INDEX).write_bytes(pickle.dumps(index))
    seal(folder)


def test_sealing_an_honest_checkpoint_changes_nothing(folder: Path) -> None:
    plant(folder, index_of(folder))
    check_whole(open_checkpoint(folder, Axis.alone()))


@pytest.mark.parametrize("place", ["all of it", "planner data", "a name", "storage meta"])
def test_a_program_in_the_tensor_index_is_named_and_does_not_run(folder: Path, tmp_path: Path, place: str) -> None:
    witness = tmp_path / "ran"
    program: Any = Program(witness)
    index = index_of(folder)
    if place == "planner data":
        program = replace(index, planner_data=program)
    elif place == "a name":
        program = replace(index, state_dict_metadata={**index.state_dict_metadata, "x": program})
    elif place == "storage meta":
        program = replace(index, storage_meta=program)
    plant(folder, program)
    with pytest.raises(UserError, match=r"\.metadata asks for posix\.system, which no index .*; it was not run"):
        open_checkpoint(folder, Axis.alone())
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact"):
        alone(folder.parent, warnings=[]).newest()
    assert not witness.exists()
    pickle.loads((folder / TENSOR_INDEX).read_bytes())
    assert witness.exists()  # the program was a real one


class OlderPickler(pickle.Pickler):
    """Writes members of enumerations as Python 3.11.2, that of Debian 12, does."""

    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, enum.Enum) else NotImplemented


class Attribute:
    """A pickle of this asks for an attribute."""

    def __init__(self, owner: Any, name: str) -> None:
        self.asked = (owner, name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, self.asked


def test_what_an_older_python_has_written_is_read(folder: Path) -> None:
    """Oracle: also the tensors that were saved."""
    index = index_of(folder)
    text = io.BytesIO()
    OlderPickler(text).dump(index)
    assert b"getattr" in text.getvalue()
    (folder / TENSOR_INDEX).write_bytes(text.getvalue())
    seal(folder)
    check_whole(open_checkpoint(folder, Axis.alone()))


@pytest.mark.parametrize("owner", [torch.Size, _MEM_FORMAT_ENCODING, torch.float32])
def test_no_other_attribute_is_had(folder: Path, owner: Any) -> None:
    planted: Any = Attribute(owner, "__class__")
    plant(folder, replace(index_of(folder), planner_data=planted))
    with pytest.raises(UserError, match=r"\.metadata asks for '__class__' of .*; it was not run"):
        open_checkpoint(folder, Axis.alone())


@pytest.mark.parametrize("name", ["builtins.eval", "torch.load", "torch.serialization.os.system", "pickle.loads"])
def test_other_callables_are_refused_too(folder: Path, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if name == "torch.serialization.os.system":
        module, attribute = "torch.serialization", "os.system"
    words = [module, attribute]
    text = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in words)
    (folder / TENSOR_INDEX).write_bytes(b"\x80\x04" + text + b"\x93.")
    seal(folder)
    with pytest.raises(UserError, match=rf"\.metadata asks for {name}, which no index"):
        open_checkpoint(folder, Axis.alone())


def test_an_index_that_points_outside_is_refused(folder: Path, tmp_path: Path) -> None:
    index = index_of(folder)
    for place in index.storage_data.values():
        place.relative_path = "../../secret"
    (tmp_path / "secret").write_bytes((folder / "__0_0.distcp").read_bytes())
    plant(folder, index)
    with pytest.raises(UserError, match=r"looks for .* in '\.\./\.\./secret', which is not of the checkpoint"):
        open_checkpoint(folder, Axis.alone())


def test_a_manifest_that_points_outside_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    files = {name: fingerprint(folder / name) for name in (FACTS, TENSOR_INDEX)}
    files["../../secret"] = fingerprint(tmp_path / "secret")
    (folder / MANIFEST).write_text(Manifest(1, files).to_json())
    (folder / MARK).write_text(mark_of(fingerprint(folder / MANIFEST)))
    with pytest.raises(UserError, match=r"names '\.\./\.\./secret', which is outside"):
        open_checkpoint(folder, Axis.alone())


def test_entries_that_are_no_tensors_are_refused(folder: Path) -> None:
    index = index_of(folder)
    no_tensor: Any = "text"
    plant(folder, replace(index, state_dict_metadata={**index.state_dict_metadata, "x": no_tensor}))
    with pytest.raises(UserError, match="says that x is no tensor; only tensors are loaded"):
        open_checkpoint(folder, Axis.alone())


@pytest.mark.parametrize("planted", ["program", "dict", "other shape", "other dtype", "noise"])
def test_an_entry_of_something_else_than_its_tensor_is_refused_and_does_not_run(
    folder: Path, tmp_path: Path, planted: str
) -> None:
    witness = tmp_path / "ran"
    content = {
        "program": Program(witness),
        "dict": {},
        "other shape": torch.zeros(1, 77),
        "other dtype": torch.zeros(11, 6, dtype=torch.int32),
    }
    if planted == "noise":
        (folder / "__0_0.distcp").write_bytes(b"noise" * 1000)
    else:
        torch.save(content[planted], folder / "__0_0.distcp")
    index = index_of(folder)
    for place in index.storage_data.values():
        place.offset, place.length = 0, (folder / "__0_0.distcp").stat().st_size
    plant(folder, index)
    found = open_checkpoint(folder, Axis.alone())
    with pytest.raises(UserError, match=r"step-00000001: the entry of embedding\.weight is (refused|not the tensor)"):
        found.load({"embedding.weight": everything(model())["embedding.weight"]})
    assert not witness.exists()


def test_an_index_with_a_hole_is_refused_when_it_is_wanted(folder: Path) -> None:
    index = index_of(folder)
    tensors = dict(index.state_dict_metadata)
    tensor = tensors["embedding.weight"]
    assert isinstance(tensor, TensorStorageMetadata)
    tensors["embedding.weight"] = replace(tensor, chunks=[])
    plant(folder, replace(index, state_dict_metadata=tensors))
    found = open_checkpoint(folder, Axis.alone())
    with pytest.raises(UserError, match=r"does not hold all of embedding\.weight"):
        found.load({"embedding.weight": everything(model())["embedding.weight"]})
