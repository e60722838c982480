"""Oracle: what was done to a rank under torch's own torchrun; and which rank's heart was left to stand still."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from megalm.errors import TrainingError, UserError
from megalm.launcher import teller
from megalm.launcher.look import FILE
from megalm.launcher.placement import Placement
from megalm.launcher.teller import Teller
from megalm.launcher.watchdog import Watchdog, mark
from megalm.layout import Layout
from megalm.training.config import RunSection
from megalm.watch.marker import MarkerFile
from megalm.watch.place import read_positions
from megalm.watch.position import End
from megalm.watch.processes import born, this_machine
from tests.training.test_kills import ROOT, steps_done
from tests.verify.runs import GPT2, run_file
from tests.watch.marked import marker_of

LOST = End("lost", "rank 0 waited for somebody", 1.0)


@contextmanager
def beating(*markers: MarkerFile) -> Iterator[None]:
    """Let hearts beat."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.02):
            for marker in markers:
                marker.beat()

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    over.set()
    thread.join()


def waiting(run_dir: Path, rank: int, **card: object) -> MarkerFile:
    """Return a marker of a rank that waits in the first sum of the world."""
    marker = marker_of(run_dir, rank, **card)
    channel = marker.channel("world", (0, 1, 2, 3))
    assert channel is not None
    channel.begin("all_reduce", 8).wait()
    return marker


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teller, "SEEN_ALIVE_S", 0.4)
    monkeypatch.setattr(teller, "SILENT_S", 1.0)
    monkeypatch.setattr(teller, "PATIENCE_S", 2.0)


@pytest.fixture
def here() -> dict[str, object]:
    return {"pid": os.getpid(), "born": born(os.getpid()), "machine": this_machine()}


@pytest.mark.usefixtures("hurried")
def test_a_rank_of_another_machine_without_a_heartbeat_is_silent(tmp_path: Path, here: dict[str, object]) -> None:
    """Rank 2 is on a machine of its own and shows no life; that of rank 1 and 3 does."""
    waiting(tmp_path, 0, **here)
    others = [waiting(tmp_path, rank, machine=f"machine {rank}") for rank in (1, 3)]
    waiting(tmp_path, 2, machine="machine 2")
    with beating(*others):
        text = Teller(tmp_path, "first").text(LOST)
    assert text.startswith("rank 2 (process 4711 on h1) shows no life for ")
    assert "rank 0-1,3 (step 0, ) waits in all_reduce 1 over world (ranks 0-3), 8 B, for rank 2" in text
    assert (tmp_path / FILE).read_text() == text + "\n"


@pytest.mark.usefixtures("hurried")
def test_where_no_machine_shows_life_it_takes_longer_to_believe_it(tmp_path: Path, here: dict[str, object]) -> None:
    waiting(tmp_path, 0, world_size=2, **here)
    waiting(tmp_path, 1, world_size=2, machine="machine 1")
    began = time.monotonic()
    assert Teller(tmp_path, "first").text(LOST).startswith("rank 1 (process 4711 on h1) shows no life for 1 s")
    assert time.monotonic() - began >= 1.0


@pytest.mark.usefixtures("hurried")
def test_one_rank_tells_and_the_others_wait_until_it_has(tmp_path: Path, here: dict[str, object]) -> None:
    waiting(tmp_path, 0, world_size=2, **here)
    other = waiting(tmp_path, 1, world_size=2, **here)
    first, second, of_another_launch = (Teller(tmp_path, launch) for launch in ("first", "first", "second"))
    other.ends(End("refused", "the disk is full", 2.0))
    first.suspect()
    assert not second.has_told
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(second.text, LOST)
        assert "the disk is full\nrank 1 (" in first.text(LOST)
        assert waits.result() == ""
    assert second.has_told
    assert not of_another_launch.has_told


def test_what_was_suspected_in_vain_may_be_suspected_again_by_another(tmp_path: Path) -> None:
    marker_of(tmp_path, 0)
    first, second = Teller(tmp_path, "first"), Teller(tmp_path, "first")
    first.suspect()
    assert not second.claim()
    first.calm()
    assert second.claim()


def test_a_rank_tells_by_itself_where_nobody_else_can(tmp_path: Path, hurried: None) -> None:
    """The directory is gone; or whoever was to tell has ended before it could."""
    crash = End("refused", "the disk is full", 1.0)
    assert Teller(tmp_path / "gone", "first").text(crash) == "the disk is full"
    marker_of(tmp_path, 0)
    assert Teller(tmp_path, "first").claim()
    assert Teller(tmp_path, "first").text(crash) == "the disk is full"
    assert not (tmp_path / FILE).exists()


def test_one_process_keeps_why_it_failed(tmp_path: Path) -> None:
    placement, run = Placement.alone(), RunSection(dir=str(tmp_path))
    marker = mark(tmp_path, placement, Layout(), {}, on_device=False)
    with Watchdog(marker, placement, run, {}) as watchdog:
        watchdog.failed(TrainingError("step 3: the gradient of model.norm.weight is not finite."))
    assert (tmp_path / FILE).read_text() == "step 3: the gradient of model.norm.weight is not finite.\n"
    mark(tmp_path, placement, Layout(), {}, on_device=False)
    assert not (tmp_path / FILE).exists()


def test_who_has_not_come_is_told_where_ranks_meet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placement = Placement(1, 4, 0, 1, "h0", 29500, "torchrun")
    for rank in (0, 1):
        here = replace(placement, rank=rank)
        marker = mark(tmp_path, here, Layout(dp=4), {}, on_device=False)
    channel = marker.channel("world", (0, 1, 2, 3))
    assert channel is not None
    channel.begin("rendezvous").wait()
    watchdog = Watchdog(marker, placement, RunSection(dir=str(tmp_path)), {})
    with pytest.raises(SystemExit), watchdog:
        watchdog.failed(UserError("rank 1 did not meet the others."))
    assert capsys.readouterr().err == "megalm: rank 1 did not meet the others. Rank 2-3 has not come up.\n"


def torchrun(folder: Path, source: str) -> tuple["subprocess.Popen[str]", Path]:
    config = run_file(
        GPT2,
        layout={"dp": 2},
        run={"timeout": 60},
        data={"train": [{"path": f"tests.launcher.faulty:{source}"}]},
        train={
            **{"precision": "fp32", "steps": 100_000, "eval_every": 0},
            **{"global_batch_size": 4, "micro_batch_size": 1},
        },
        checkpoint={"every": 0},
    )
    (folder / "run.yaml").write_text(config.to_yaml())
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command = [*start, "megalm", "train", str(folder / "run.yaml"), f"run.dir={folder / 'run'}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ), folder / "run"


def test_under_torchrun_one_screen_tells_of_a_killed_rank_and_of_one_that_fails(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    killed, killed_dir = torchrun(tmp_path_factory.mktemp("killed"), "healthy")
    failing, failing_dir = torchrun(tmp_path_factory.mktemp("failing"), "failing")
    try:
        _, told = failing.communicate(timeout=300)
        assert failing.returncode == 1
        assert told.count("megalm: ") == told.count("ValueError: a sample that cannot be read") == 1
        verdict = (failing_dir / FILE).read_text()
        assert verdict in told
        assert "rank 1 is pp=0 dp=1 cp=0 tp=0, on " in verdict
        assert ", in step 4, reading data for " in verdict
        while killed.poll() is None and steps_done(killed_dir) < 3:
            time.sleep(0.05)
        pid = read_positions(killed_dir)[1].pid
        os.kill(pid, signal.SIGKILL)
        _, told = killed.communicate(timeout=100)
        assert told.count("megalm: ") == 1
        verdict = (killed_dir / FILE).read_text()
        assert verdict in told
        assert verdict.startswith(f"rank 1 (process {pid} on ")
        assert " is gone in step " in verdict
        assert "Traceback" not in verdict
    finally:
        for agent in (killed, failing):
            agent.terminate()
            agent.communicate()
