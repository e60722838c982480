"""Oracle: a file system of a few MiB, full in the middle of a save, and the checkpoint saved there before."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import CheckpointStore
from megalm.errors import UserError
from tests.checkpoint.tensors import bits, world_of
from tests.ranks import RankContext, RankPool

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB, in memory; making one needs root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def share(context: RankContext, mib: int, value: int) -> dict[str, Piece]:
    """Rank 1 holds all of the large tensor: only it runs out of space."""
    large = torch.full((mib * MIB // 4,), float(value))
    small = torch.full((4,), float(value))
    last = context.rank == context.num_ranks - 1
    return {
        "large": Piece(tuple(large.shape), large.dtype, (((0,), large),) if last else ()),
        "small": Piece.whole(small),
    }


def save_into(context: RankContext, store: CheckpointStore, step: int, mib: int, asynchronous: bool) -> str:
    try:
        store.save(step, share(context, mib, step), {"step": step}, asynchronous=asynchronous)
        store.wait()
    except UserError as error:
        return str(error)
    return "saved"


def newest_of(store: CheckpointStore, mib: int) -> int:
    found = store.newest()
    assert found is not None
    into = torch.zeros(mib * MIB // 4)
    found.load({"large": Piece.whole(into)})
    assert bits(into) == bits(torch.full_like(into, float(found.step)))
    return found.step


def fill_the_disk(context: RankContext, directory: Path, asynchronous: bool) -> tuple[list[str], list[int], list[str]]:
    store = CheckpointStore(directory, world=world_of(context), keep=2)
    told = [save_into(context, store, 1, 2, asynchronous)]
    told.append(save_into(context, store, 2, 5, asynchronous))
    good = [newest_of(store, 2)]
    left = sorted(path.name for path in directory.iterdir()) if context.rank == 0 else ["step-00000001"]
    told.append(save_into(context, store, 3, 2, asynchronous))  # there is space for a smaller one
    good.append(newest_of(store, 2))
    return told, good, left


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_full_disk_is_one_sentence_on_all_ranks_and_the_checkpoint_before_stays_good(
    ranks: RankPool, small_disk: Path, num_ranks: int, asynchronous: bool
) -> None:
    directory = small_disk / "checkpoints"
    sentence = (
        f"the checkpoint of step 2 could not be saved in {directory} (No space left on device); those saved before it "
        "stay good: mend that and run again."
    )
    for told, good, left in ranks.run(num_ranks, fill_the_disk, directory, asynchronous):
        assert told == ["saved", sentence, "saved"]
        assert good == [1, 3]
        assert left == ["step-00000001"]


def fill_all_but(context: RankContext, directory: Path, left: int) -> tuple[str, int]:
    """Leave a few kB: the values fit, or some of the small files after them do."""
    store = CheckpointStore(directory, world=world_of(context), keep=2)
    assert save_into(context, store, 1, 1, False) == "saved"
    disk = os.statvfs(directory)
    filler = directory.parent / "filler"
    with filler.open("wb") as file:
        file.write(b"\0" * (disk.f_bavail * disk.f_frsize - MIB - left))
    told = save_into(context, store, 2, 1, False)
    newest = newest_of(store, 1)
    filler.unlink()
    return told, newest


def test_a_disk_that_is_full_at_any_of_the_last_files_does_no_harm(ranks: RankPool, small_disk: Path) -> None:
    outcomes = []
    for pages in range(0, 12):
        directory = small_disk / "checkpoints"
        ((told, newest),) = ranks.run(1, fill_all_but, directory, pages * 4096)
        outcomes.append("No space left on device" in told)
        assert newest == (1 if outcomes[-1] else 2)
    assert outcomes[0]
    assert not outcomes[-1]


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_beyond_a_limit(context: RankContext, directory: Path) -> tuple[str, int]:
    store = CheckpointStore(directory, world=world_of(context), keep=2)
    assert save_into(context, store, 1, 2, True) == "saved"
    with files_of_at_most(MIB):
        told = save_into(context, store, 2, 2, True)
    return told, newest_of(store, 2)


def test_a_limit_on_file_sizes_is_told_as_well(ranks: RankPool, tmp_path: Path) -> None:
    for told, newest in ranks.run(2, save_beyond_a_limit, tmp_path):
        assert told.startswith(f"the checkpoint of step 2 could not be saved in {tmp_path} (File too large); ")
        assert newest == 1
