"""Oracle: one process of our own engine, and the files on the disk.

DeepSpeed's reader is compiled for minutes; without MEGALM_TEST_FULL=1 a plain one stands in for it.
"""

import ctypes.util
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from megalm.errors import UserError
from megalm.layout import Layout
from megalm.run_config import RunConfig
from megalm.training.backends.deepspeed import DeepSpeed
from megalm.training.backends.deepspeed_nvme import check_files
from tests.ranks import RankContext, RankPool
from tests.training.backends.plain_files import PlainBuilder
from tests.training.backends.runs import Seen, begin, go_on, handed_on, run_config, trained, trained_around
from tests.training.backends.test_foreign import DATA, check

COMPILED = bool(os.environ.get("MEGALM_TEST_FULL") and ctypes.util.find_library("aio"))
READERS = ("plain", "compiled") if COMPILED else ("plain",)
MODEL = {"hidden_size": 160}
"""Each rank owns 388,000 elements that decay, more than the 1 MiB that go to a file, and a few that do not."""


def nvme_config(folder: Path) -> RunConfig:
    zero = {"stage": 3, "backend": "deepspeed", "offload": "nvme", "offload_path": str(folder / "files")}
    return run_config(DATA, "deepspeed", 3, model=MODEL, zero=zero)


@contextmanager
def reading(reader: str) -> Iterator[None]:
    """Let DeepSpeed read by the plain reader, or by its own."""
    if reader == "compiled":
        yield
        return
    names = ("deepspeed.ops.op_builder", "deepspeed.runtime.swap_tensor.partitioned_optimizer_swapper")
    first, second = (importlib.import_module(name) for name in names)
    with (
        mock.patch.object(first, "AsyncIOBuilder", PlainBuilder),
        mock.patch.object(second, "AsyncIOBuilder", PlainBuilder),
    ):
        yield


@pytest.fixture(scope="module")
def alone() -> Seen:
    return trained(run_config(Layout(), "native", 0, model=MODEL), 12)


@dataclass
class Lying:
    """Where a rank's values and moments are between two steps."""

    in_memory: int
    in_files: int


def trained_from_files(context: RankContext, reader: str, folder: Path) -> tuple[Seen, Lying]:
    with reading(reader):
        state, feed = begin(nvme_config(folder))
        assert isinstance(state, DeepSpeed)
        seen = Seen()
        go_on(state, feed, seen, 5)
        kept: dict[Any, dict[str, Any]] = state._adamw.state
        tensors = [each for values, moments in kept.items() for each in (values, *moments.values())]
        files = (folder / "files").glob(f"zero_stage_3/optimizer/rank{context.rank}/*.swp")
        names = [path for path in files if "gradient" not in path.name]
        return seen, Lying(sum(each.numel() for each in tensors), sum(path.stat().st_size // 4 for path in names))


def handed_on_by(context: RankContext, reader: str, folder: Path) -> Seen:
    native, other = run_config(DATA, "native", 1, model=MODEL), nvme_config(folder)
    with reading(reader):
        return handed_on(context, [native, other, other, native], 3, folder / "checkpoints")


def trained_around_by(context: RankContext, reader: str, folder: Path) -> tuple[Seen, list[bool], str]:
    with reading(reader):
        return trained_around(context, nvme_config(folder))


@pytest.mark.parametrize("reader", READERS)
def test_the_state_is_in_files_and_the_losses_stay(ranks: RankPool, alone: Seen, reader: str, tmp_path: Path) -> None:
    for seen, lying in ranks.run(2, trained_from_files, reader, tmp_path, timeout_s=900):
        check(seen, alone)
        assert lying.in_files >= 3 * 2**18
        assert lying.in_memory < lying.in_files / 100


@pytest.mark.parametrize("reader", READERS)
def test_checkpoints_are_read_from_files_and_into_them(
    ranks: RankPool, alone: Seen, reader: str, tmp_path: Path
) -> None:
    for seen in ranks.run(2, handed_on_by, reader, tmp_path):
        assert len(seen.losses) == 12
        check(seen, alone)


@pytest.mark.parametrize("reader", READERS)
def test_a_step_that_is_not_made_leaves_nothing(ranks: RankPool, alone: Seen, reader: str, tmp_path: Path) -> None:
    for seen, updated, told in ranks.run(2, trained_around_by, reader, tmp_path):
        assert updated == [False, False]
        check(seen, alone)
        assert "and the gradient of " in told


def refusals(context: RankContext, folder: Path) -> list[str]:
    """Return what is said where the reader cannot be compiled, and where the directory cannot be made."""
    (folder / "file").write_text("no directory")
    told = []
    with reading("plain"):
        for compiles, path in ((False, folder / "files"), (True, folder / "file")):
            with mock.patch.object(PlainBuilder, "is_compatible", return_value=compiles):
                try:
                    check_files(str(path))
                except UserError as error:
                    told.append(str(error))
    return told


def test_what_is_missing_is_one_sentence(ranks: RankPool, tmp_path: Path) -> None:
    ((library, directory),) = ranks.run(1, refusals, tmp_path)
    assert "apt-get install libaio-dev g++" in library
    assert directory.startswith(f"zero.offload_path={tmp_path / 'file'} cannot be made (File exists);")
    assert "\n" not in library + directory
