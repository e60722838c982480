"""Oracle: the checkpoints completed before a save was cut off, and the one it would have made; nothing in between.

A save is cut at each of its steps on the disk in turn, as a kill would: nothing after that step happens.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from megalm.checkpoint.disk import DurableFiles
from tests.checkpoint.tensors import alone, check_whole, save

STEPS_ON_DISK = ("fsync", "mkdir", "rename", "rmdir", "unlink")


class Cut(BaseException):
    """The process is dead from here on."""


class Disk:
    """Counts the steps on the disk, each named by what it does to which file, and cuts before a chosen one."""

    def __init__(self, patch: pytest.MonkeyPatch, cut_before: int | None = None) -> None:
        self.steps: list[str] = []
        self.cut_before = cut_before
        self.open: dict[int, str] = {}
        for name in STEPS_ON_DISK:
            patch.setattr(os, name, self._counted(name, getattr(os, name)))
        create = DurableFiles.create_stream

        def create_stream(files: DurableFiles, path: Path, mode: str) -> Any:
            self._count(f"write {path.name}")
            return create(files, path, mode)

        patch.setattr(DurableFiles, "create_stream", create_stream)

    def _counted(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            first = arguments[0]
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
            self._count(
                " ".join([name, Path(path).name, *(Path(more).name for more in arguments[1:2] if name == "rename")])
            )
            return do(*arguments, **options) if name != "fsync" else None

        return step

    def _count(self, step: str) -> None:
        if self.cut_before is not None and len(self.steps) >= self.cut_before:
            raise Cut
        self.steps.append(step)


def steps_of_a_save(directory: Path, step: int, version: int, keep: int) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        save(directory, step, version, keep)
    return disk.steps


@pytest.mark.parametrize(
    ("step", "keep"), [(3, 2), (3, 1), (2, 2), (2, 1), (1, 2)], ids=["next", "next-1", "again", "again-1", "back"]
)
def test_a_save_that_is_cut_anywhere_leaves_what_was_there_or_the_new_one(tmp_path: Path, step: int, keep: int) -> None:
    base = tmp_path / "base"
    for before in (1, 2):
        save(base, before, keep=2)
    shutil.copytree(base, tmp_path / "whole")
    steps = steps_of_a_save(tmp_path / "whole", step, 100, keep)
    after = sorted(path.name for path in (tmp_path / "whole").iterdir())
    seen = set()
    for at in range(len(steps)):
        run = tmp_path / f"cut-{at}"
        shutil.copytree(base, run)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, cut_before=at)
            with pytest.raises(Cut):
                save(run, step, 100, keep)
        warnings: list[str] = []
        found = alone(run, warnings=warnings).newest()
        assert found is not None
        check_whole(found)
        seen.add(found.facts["version"])
        # Old before the new one is marked; the new one after that, unless a later one is not deleted yet.
        marked = any(done.startswith("rename complete.new") for done in steps[:at])
        assert found.facts["version"] in ({100, 2} if marked and step < 2 else {100} if marked else {2})
        assert all("complete is missing" in warning for warning in warnings)
        save(run, step, 100, keep)  # the same command again
        assert sorted(path.name for path in run.iterdir()) == after
    assert seen == {2, 100}


def test_every_file_is_on_the_disk_before_the_folder_has_its_name_and_the_name_before_the_mark(tmp_path: Path) -> None:
    steps = steps_of_a_save(tmp_path, 1, 1, 2)
    (renamed,) = (at for at, step in enumerate(steps) if step.endswith("step-00000001") and step.startswith("rename"))
    (marked,) = (at for at, step in enumerate(steps) if step == "rename complete.new complete")
    written = {step.removeprefix("write ") for step in steps if step.startswith("write ")}
    assert written == {"__0_0.distcp", ".metadata.tmp", "facts.json", "manifest.json", "complete.new"}
    synced = {step.removeprefix("fsync ") for step in steps[:renamed] if step.startswith("fsync ")}
    assert written <= synced
    assert steps[renamed - 1].startswith("fsync saving-00000001-")
    assert f"fsync {tmp_path.name}" in steps[renamed:marked]
    assert steps[marked + 1] == "fsync step-00000001"


@pytest.mark.parametrize("leftover", ["saving-00000009-0123abcd", "deleting-00000001-0123abcd", "step-00000009"])
def test_a_torn_folder_is_not_seen_and_is_cleaned_by_the_next_save(tmp_path: Path, leftover: str) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / leftover)
    (tmp_path / leftover / "complete").rename(tmp_path / leftover / "complete.new")
    warnings: list[str] = []
    found = alone(tmp_path, warnings=warnings).newest()
    assert found is not None
    assert found.step == 1
    assert [leftover in warning for warning in warnings] == ([True] if leftover.startswith("step") else [])
    save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_what_the_user_put_there_stays(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in ("best", "step-1", "saving-notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with suppress(FileNotFoundError):
        (tmp_path / "step-00000001" / "notes.txt").write_text("mine")
    found = alone(tmp_path).newest()
    assert found is not None
    assert found.step == 1
    save(tmp_path, 2, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best",
        "notes.txt",
        "saving-notes",
        "step-00000002",
        "step-1",
    ]
