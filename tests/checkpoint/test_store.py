"""Oracle: the bits that were saved, and the folders that a user would find."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from megalm.checkpoint import save as save_module
from megalm.checkpoint.config import CheckpointConfig
from megalm.checkpoint.disk import DurableFiles
from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import open_checkpoint
from megalm.errors import UserError
from megalm.mesh import Axis
from tests.checkpoint.tensors import DTYPES, MODEL, alone, bits, blank, check_whole, everything, model, save, tensor_of


def folders(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_bit_and_every_fact_comes_back(tmp_path: Path, asynchronous: bool) -> None:
    facts = {"version": 3, "rng": [2**63 - 1, 0.1], "nested": {"text": "é\n", "none": None}}
    store = alone(tmp_path / "run" / "checkpoints")
    store.save(12, everything(model(3)), facts, asynchronous=asynchronous)
    store.wait()
    found = alone(tmp_path / "run" / "checkpoints").newest()
    assert found is not None
    assert found.step == 12
    assert found.facts == facts
    assert found.names() == MODEL
    check_whole(found)
    assert folders(tmp_path / "run" / "checkpoints") == ["step-00000012"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_of_any_strides_are_saved_and_filled(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = tensor_of("strided", (6, 10), dtype)
    storage = torch.empty(20, 12, dtype=dtype)
    view = storage.t()[::2, 3:13]
    view.copy_(whole)
    alone(tmp_path).save(1, {"strided": Piece.whole(view)}, {}, asynchronous=False)
    rest = storage.clone()
    view.fill_(0)
    found = alone(tmp_path).newest()
    assert found is not None
    found.load({"strided": Piece.whole(view)})
    assert bits(view) == bits(whole)
    assert bits(storage) == bits(rest)


def test_tensors_without_elements_and_parameters_that_need_gradients(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    tensors = {"empty": Piece((0, 4), torch.float32, ()), "parameter": Piece.whole(parameter)}
    alone(tmp_path).save(1, tensors, {}, asynchronous=False)
    found = alone(tmp_path).newest()
    assert found is not None
    assert found.names()["empty"] == ((0, 4), torch.float32)
    into = torch.nn.Parameter(torch.zeros(2))
    found.load({"empty": Piece.whole(torch.empty(0, 4)), "parameter": Piece.whole(into)})
    assert into.tolist() == [1.0, 2.0]


@contextmanager
def held_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let no file be written until the event is set."""
    go = threading.Event()
    write = DurableFiles.create_stream

    def late(files: DurableFiles, path: Path, mode: str) -> object:
        assert go.wait(30)
        return write(files, path, mode)

    monkeypatch.setattr(DurableFiles, "create_stream", late)
    yield go
    go.set()


def test_values_may_change_when_an_asynchronous_save_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = model(5)
    facts = {"version": 5}
    store = alone(tmp_path)
    with held_back(monkeypatch) as go:
        store.save(5, everything(tensors), facts, asynchronous=True)
        for tensor in tensors.values():
            tensor.zero_()
        facts["version"] = 6
        assert not list(tmp_path.glob("step-*"))
        go.set()
        found = store.newest()  # it waits for the save under way
    assert found is not None
    check_whole(found)


def test_the_next_save_waits_for_the_one_under_way_and_tells_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = alone(tmp_path)
    monkeypatch.setattr(save_module, "mark_of", lambda _: 1 / 0)
    store.save(1, everything(model(1)), {"version": 1}, asynchronous=True)
    with pytest.raises(ZeroDivisionError):
        store.save(2, everything(model(2)), {"version": 2}, asynchronous=True)
    monkeypatch.undo()
    assert folders(tmp_path) == []
    store.wait()
    store.save(2, everything(model(2)), {"version": 2}, asynchronous=True)
    store.wait()
    assert folders(tmp_path) == ["step-00000002"]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    assert alone(tmp_path / "none").newest() is None
    for step in (1, 2, 10, 9999, 123456789):
        save(tmp_path, step, keep=3)
    assert folders(tmp_path) == ["step-00000010", "step-00009999", "step-123456789"]
    save(tmp_path, 123456790, keep=1)
    assert folders(tmp_path) == ["step-123456790"]


def test_a_second_save_of_a_step_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2, version=100)
    save(tmp_path, 2, version=200)
    assert folders(tmp_path) == ["step-00000001", "step-00000002"]
    found = alone(tmp_path).newest()
    assert found is not None
    assert found.facts == {"version": 200}
    check_whole(found)


def test_later_checkpoints_of_a_course_that_was_left_are_deleted_by_name(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step, keep=3)
    warnings: list[str] = []
    alone(tmp_path, 3, warnings).save(8, everything(model(8)), {"version": 8}, asynchronous=False)
    assert folders(tmp_path) == ["step-00000005", "step-00000008"]
    assert [text.split(" is deleted")[0] for text in warnings] == [
        f"checkpoint {tmp_path}/step-00000015",
        f"checkpoint {tmp_path}/step-00000010",
    ]


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    save(tmp_path, 1)
    found = open_checkpoint(tmp_path / "step-00000001", Axis.alone())
    whole = model(1)
    into = blank(whole)
    before = {name: bits(tensor) for name, tensor in into.items()}
    misfits = {
        r"no tensor 'block\.0\.wieght'; did you mean 'block\.0\.weight'\?": ("block.0.wieght", torch.empty(8, 12)),
        r"block\.0\.bias has shape \(7,\) in the checkpoint .* and \(8,\) here": (
            "block.0.bias",
            torch.empty(8, dtype=torch.bfloat16),
        ),
        r"embedding\.weight is torch\.float32 in the checkpoint .* and torch\.float64 here": (
            "embedding.weight",
            torch.empty(11, 6, dtype=torch.float64),
        ),
    }
    for message, (name, tensor) in misfits.items():
        with pytest.raises(UserError, match=message):
            found.load({**everything(into), name: Piece.whole(tensor)})
    assert {name: bits(tensor) for name, tensor in into.items()} == before


def test_values_are_converted_only_when_asked_to(tmp_path: Path) -> None:
    alone(tmp_path).save(1, {"x": Piece.whole(torch.tensor([1.0, 0.1]))}, {}, asynchronous=False)
    found = alone(tmp_path).newest()
    assert found is not None
    into = torch.zeros(2, dtype=torch.bfloat16)
    found.load({"x": Piece.whole(into)}, cast=True)
    assert into.tolist() == torch.tensor([1.0, 0.1]).bfloat16().tolist()


def test_a_piece_outside_of_its_tensor_is_refused() -> None:
    for offsets, values in (((2, 0), torch.ones(2, 2)), ((-1, 0), torch.ones(1, 2)), ((0,), torch.ones(2))):
        with pytest.raises(ValueError, match="is no part of a tensor of shape"):
            Piece((3, 2), torch.float32, ((offsets, values),))
    with pytest.raises(ValueError, match=r"torch\.float64, is no part"):
        Piece((3, 2), torch.float32, (((0, 0), torch.ones(3, 2, dtype=torch.float64)),))


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"the checkpoint of step 1 could not be saved in .*/file/below \(Not a dir"):
        save(tmp_path / "file" / "below", 1)


def test_a_directory_that_cannot_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def refuse(_: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=rf"^the checkpoints in {tmp_path} cannot be read \(Permission denied\); "):
        alone(tmp_path).newest()


def test_the_folder_is_made_as_any_other(tmp_path: Path) -> None:
    save(tmp_path, 1)
    os.mkdir(tmp_path / "other")
    assert (tmp_path / "step-00000001").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_facts_are_readable_and_no_path_is_saved(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert json.loads((tmp_path / "step-00000001" / "facts.json").read_text()) == {"version": 1}
    for path in (tmp_path / "step-00000001").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def test_async_is_a_key_of_the_run_file() -> None:
    assert CheckpointConfig.model_validate({"async": False}).async_ is False
    assert CheckpointConfig().model_dump(by_alias=True)["async"] is True
