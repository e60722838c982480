"""Oracle: what each step's values must be, and a note of every save that was seen to complete."""

import io
import os
import random
import signal
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import pytest
import torch

from megalm.checkpoint.disk import DurableFiles
from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import CheckpointStore
from megalm.collectives import all_reduce
from megalm.errors import LostRank, TrainingError
from tests.checkpoint.tensors import bits, world_of
from tests.ranks import RankContext, RankFailure, RankPool

ROWS = 1 << 10
COLUMNS = 1 << 8


def values(step: int) -> torch.Tensor:
    return torch.arange(ROWS * COLUMNS, dtype=torch.float64).reshape(ROWS, COLUMNS) + step * 1e-3


def share(context: RankContext, whole: torch.Tensor) -> dict[str, Piece]:
    """Cut into rows, the same number for each rank."""
    each = ROWS // context.num_ranks
    rows = slice(context.rank * each, (context.rank + 1) * each)
    return {"w": Piece((ROWS, COLUMNS), whole.dtype, (((rows.start, 0), whole[rows]),))}


def resume(store: CheckpointStore) -> int:
    """Return the step of the newest checkpoint, having compared all of its values; 0 if there is none."""
    found = store.newest()
    if found is None:
        return 0
    assert found.facts == {"step": found.step}
    into = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    found.load({"w": Piece.whole(into)})
    assert bits(into) == bits(values(found.step))
    return found.step


def note_of(run: Path) -> int:
    """Return the last step whose save was seen to complete."""
    return int((run / "completed").read_text()) if (run / "completed").exists() else 0


def save_until_killed(context: RankContext, run: Path, victim: int, delay_s: float, keep: int) -> None:
    """Resume, save one step, then save until the timer kills the victim."""
    warnings: list[str] = []
    store = CheckpointStore(run / "checkpoints", world=world_of(context), keep=keep, warn=warnings.append)
    step = first = resume(store)
    assert all("complete is missing" in warning for warning in warnings)
    assert step >= note_of(run)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        step += 1
        store.save(step, share(context, values(step)), {"step": step}, asynchronous=bool(step % 3))
        if step % 2 or step == first + 1:
            store.wait()
            if context.rank == 0:
                (run / "completed.part").write_text(str(step))
                (run / "completed.part").rename(run / "completed")
        if step == first + 1 and context.rank == victim:
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()


def resume_only(context: RankContext, run: Path) -> int:
    return resume(CheckpointStore(run / "checkpoints", world=world_of(context), keep=2, warn=lambda _: None))


def test_ten_kills_at_random_moments_never_lose_or_falsify_a_completed_save(ranks: RankPool, tmp_path: Path) -> None:
    draw = random.Random(time.time_ns())
    for kill in range(10):
        num_ranks = 2 if kill % 3 == 2 else 1
        victim, delay_s, keep = draw.randrange(num_ranks), draw.uniform(0, 0.4), 1 + kill % 2
        with pytest.raises(RankFailure, match=rf"(?s)rank {victim} died without an answer \(signal SIGKILL\)"):
            ranks.run(num_ranks, save_until_killed, tmp_path, victim, delay_s, keep)
    assert ranks.run(1, resume_only, tmp_path)[0] >= note_of(tmp_path) >= 10


def die_while_writing(context: RankContext, run: Path, asynchronous: bool) -> None:
    store = CheckpointStore(run / "checkpoints", world=world_of(context), keep=2)
    store.save(1, share(context, values(1)), {"step": 1}, asynchronous=asynchronous)
    store.wait()
    if context.rank == 1:
        die = mock.Mock(side_effect=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        mock.patch.object(DurableFiles, "create_stream", die).start()
    start = time.monotonic()
    try:
        store.save(2, share(context, values(2)), {"step": 2}, asynchronous=asynchronous)
        store.wait()
    except LostRank as error:
        (run / f"told-{context.rank}").write_text(f"{time.monotonic() - start} {error}")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_rank_that_dies_while_saving_leaves_no_other_waiting(
    ranks: RankPool, tmp_path: Path, asynchronous: bool
) -> None:
    with pytest.raises(RankFailure, match=r"(?s)rank 1 died without an answer \(signal SIGKILL\)"):
        ranks.run(2, die_while_writing, tmp_path, asynchronous)
    seconds, told = (tmp_path / "told-0").read_text().split(" ", 1)
    assert float(seconds) < 10
    assert told.startswith("rank 0 lost another rank while they worked on a checkpoint")
    assert ranks.run(1, resume_only, tmp_path) == [1]


def fail_on_one_rank(context: RankContext, run: Path) -> str:
    store = CheckpointStore(run / "checkpoints", world=world_of(context), keep=2)
    facts = {"step": object() if context.rank == 1 else 1}
    try:
        store.save(1, share(context, values(1)), facts, asynchronous=True)
    except (TypeError, TrainingError) as error:
        return f"{type(error).__name__}: {error}"
    return "saved"


def test_an_error_of_one_rank_is_told_on_all(ranks: RankPool, tmp_path: Path) -> None:
    told = ranks.run(2, fail_on_one_rank, tmp_path)
    own = "TypeError: Object of type object is not JSON serializable"
    assert told == [f"TrainingError: rank 1 failed while the ranks worked on a checkpoint: {own}", own]


def come_late(context: RankContext, run: Path) -> str:
    store = CheckpointStore(run / "checkpoints", world=world_of(context), keep=2, timeout_s=1)
    if context.rank == 1:
        time.sleep(3)
    try:
        store.save(1, share(context, values(1)), {"step": 1}, asynchronous=True)
        store.wait()
    except LostRank as error:
        return str(error)
    return "saved"


def test_a_rank_that_does_not_come_is_waited_for_no_longer_than_allowed(ranks: RankPool, tmp_path: Path) -> None:
    lost = "lost another rank while they worked on a checkpoint; it ended, or did not answer in time."
    assert ranks.run(2, come_late, tmp_path) == [f"rank 0 {lost}", f"rank 1 {lost}"]


def save_beside_training(context: RankContext, run: Path) -> list[float]:
    """Rank 1 is slow to write, and reaches each exchange of the save between other sums of training than rank 0."""
    world = world_of(context)
    store = CheckpointStore(run / "checkpoints", world=world, keep=2)
    write = DurableFiles.create_stream

    def write_late(files: DurableFiles, path: Path, mode: str) -> AbstractContextManager[io.IOBase]:
        time.sleep(0.3 * context.rank)
        return write(files, path, mode)

    sums = []
    with mock.patch.object(DurableFiles, "create_stream", write_late):
        for step in range(1, 4):
            store.save(step, share(context, values(step)), {"step": step}, asynchronous=True)
            for _ in range(20):
                sums.append(all_reduce(torch.tensor([float(context.rank + step)]), world).item())
        store.wait()
    return sums


def test_training_goes_on_beside_a_save_without_mixing_with_it(ranks: RankPool, tmp_path: Path) -> None:
    expected = [float(2 * step + 1) for step in range(1, 4) for _ in range(20)]
    assert ranks.run(2, save_beside_training, tmp_path) == [expected, expected]
    assert ranks.run(1, resume_only, tmp_path) == [3]
