"""Oracle: the operating system: which processes are alive, and what a started launcher returned and wrote."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.launcher.local import launch
from megalm.launcher.threads import usable_cores

ENDED_WITHIN_S = 5.0
START = (sys.executable, "-m", "tests.launcher.rank_program", "start")
ROOT = Path(__file__).parents[2]


class Launcher:
    """A started launcher with the process ids of its ranks."""

    def __init__(self, folder: Path, behaviour: str, num_ranks: int) -> None:
        self.folder = folder
        self.num_ranks = num_ranks
        env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self.process = subprocess.Popen(
            [*START, str(num_ranks), str(folder), behaviour],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=env,
            start_new_session=True,
        )

    def ranks(self) -> list[int]:
        """Return the process ids, once all ranks run."""
        files = [self.folder / f"{rank}.pid" for rank in range(self.num_ranks)]
        self.wait_for(files)
        return [int(file.read_text()) for file in files]

    def wait_until_ready(self) -> None:
        self.wait_for([self.folder / f"{rank}.ready" for rank in range(self.num_ranks)])

    def wait_for(self, files: Sequence[Path]) -> None:
        deadline = time.monotonic() + 30
        while not all(file.exists() for file in files):
            assert time.monotonic() < deadline, "the ranks did not start"
            time.sleep(0.01)

    def started(self) -> list[int]:
        """Return the process ids of the ranks that have come up so far."""
        return [int(file.read_text()) for file in self.folder.glob("*.pid")]

    def end(self) -> tuple[int, str, str]:
        """Wait, and return the exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for file in tmp_path.rglob("*.pid"):  # of a test that failed
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def assert_gone(pids: Sequence[int], since: float) -> None:
    while any(map(alive, pids)):
        assert time.monotonic() - since < ENDED_WITHIN_S, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


def test_each_rank_is_placed_and_all_meet_on_one_inherited_socket(folder: Path) -> None:
    launcher = Launcher(folder, "complete", 2)
    assert launcher.end()[0] == 0
    first, second = (json.loads((folder / f"{rank}.env").read_text()) for rank in range(2))
    assert (first["RANK"], second["RANK"]) == (first["LOCAL_RANK"], second["LOCAL_RANK"]) == ("0", "1")
    assert first["WORLD_SIZE"] == second["WORLD_SIZE"] == second["LOCAL_WORLD_SIZE"] == "2"
    assert first["MASTER_ADDR"] == "127.0.0.1"
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert "MEGALM_LISTEN_FD" in first
    assert "MEGALM_LISTEN_FD" not in second
    assert first["OMP_NUM_THREADS"] == str(max(1, usable_cores() // 2))


def test_rank_0_writes_to_the_screen_and_the_others_behind_their_number(folder: Path) -> None:
    code, out, err = Launcher(folder, "complete", 2).end()
    assert code == 0
    assert out == "out of 0\n"
    assert sorted(err.splitlines()) == ["[rank 1] err of 1", "[rank 1] out of 1", "err of 0"]


def test_the_death_of_a_rank_ends_the_others_with_its_code(folder: Path) -> None:
    launcher = Launcher(folder, "fail_with_3", 3)
    pids = launcher.ranks()
    code, _, err = launcher.end()
    assert code == 3
    assert_gone(pids, time.monotonic())
    assert f"rank 1 (process {pids[1]}) ended with exit code 3" in err


def test_a_rank_that_ignores_sigterm_is_killed_in_time(folder: Path) -> None:
    launcher = Launcher(folder, "stubborn_neighbour", 2)
    pids = launcher.ranks()
    launcher.wait_for([folder / "0.ready"])
    since = time.monotonic()
    assert launcher.end()[0] == 3
    assert_gone(pids, since)


def test_kill_9_of_a_rank_ends_the_run_with_code_1(folder: Path) -> None:
    launcher = Launcher(folder, "sleep", 3)
    pids = launcher.ranks()
    os.kill(pids[2], signal.SIGKILL)
    since = time.monotonic()
    code, _, err = launcher.end()
    assert code == 1
    assert_gone(pids, since)
    assert f"rank 2 (process {pids[2]}) was ended by SIGKILL" in err


@pytest.mark.parametrize("behaviour", ["stubborn", "deaf"])
def test_kill_9_of_the_launcher_ends_all_ranks(folder: Path, behaviour: str) -> None:
    launcher = Launcher(folder, behaviour, 3)
    pids = launcher.ranks()
    launcher.wait_until_ready()
    launcher.process.kill()
    assert_gone(pids, time.monotonic())
    launcher.end()


def test_kill_9_of_the_launcher_while_it_starts_leaves_nobody(folder: Path) -> None:
    launchers = []
    for after_s in (0.0, 0.1, 0.2, 0.3, 0.5):
        (folder / str(after_s)).mkdir()
        launcher = Launcher(folder / str(after_s), "stubborn", 3)
        time.sleep(after_s)
        launcher.process.kill()
        launcher.process.wait()
        launchers.append(launcher)
    since = time.monotonic()
    time.sleep(2)  # a rank that was on its way comes up now, and must see that it is an orphan
    for launcher in launchers:
        assert_gone(launcher.started(), since)
        launcher.end()


def test_a_rank_whose_launcher_died_before_it_could_look_ends_at_once(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    env = {**os.environ, "MEGALM_LAUNCHER_PID": str(gone.pid), "RANK": "0"}
    rank = subprocess.run(
        [sys.executable, "-m", "tests.launcher.rank_program", str(folder), "sleep"], env=env, cwd=ROOT, timeout=30
    )
    assert rank.returncode == -signal.SIGKILL


def test_sigterm_is_handed_on_and_ranks_may_take_their_time_to_save(folder: Path) -> None:
    launcher = Launcher(folder, "preempted", 3)
    launcher.wait_until_ready()
    launcher.process.terminate()
    code, _, err = launcher.end()
    assert (code, err) == (75, "")
    assert len(list(folder.glob("*.saved"))) == 3


def test_a_signal_that_wakes_another_thread_of_the_launcher_is_handed_on(folder: Path) -> None:
    launcher = Launcher(folder, "preempted", 2)
    launcher.wait_until_ready()
    pid = launcher.process.pid
    beside = next(number for task in Path(f"/proc/{pid}/task").iterdir() if (number := int(task.name)) != pid)
    assert ctypes.CDLL(None).tgkill(pid, beside, signal.SIGTERM) == 0
    assert launcher.end()[0] == 75


@pytest.mark.parametrize("behaviour", ["interrupted", "sleep"])
def test_ctrl_c_is_code_130_and_one_line(folder: Path, behaviour: str) -> None:
    launcher = Launcher(folder, behaviour, 2)
    pids = launcher.ranks()
    if behaviour == "interrupted":
        launcher.wait_until_ready()
    launcher.process.send_signal(signal.SIGINT)
    code, _, err = launcher.end()
    assert code == 130
    assert err.splitlines()[-1] == "megalm: interrupted."
    assert len(err.splitlines()) == 1 or behaviour == "sleep"  # a program that catches nothing shows its traceback
    assert_gone(pids, time.monotonic())


def test_a_second_ctrl_c_kills(folder: Path) -> None:
    launcher = Launcher(folder, "stubborn", 2)
    launcher.wait_until_ready()
    launcher.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert launcher.process.poll() is None
    since = time.monotonic()
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.end()[0] == 130
    assert_gone(launcher.started(), since)


@pytest.mark.parametrize(
    ("behaviour", "code", "sentence"),
    [
        ("all_refuse", 2, "megalm: the corpus is empty; name another.\n"),
        ("one_refuses_and_its_neighbour_crashes", 2, "megalm: the disk is full; free some space.\n"),
    ],
)
def test_what_ranks_refuse_is_said_once(folder: Path, behaviour: str, code: int, sentence: str) -> None:
    assert Launcher(folder, behaviour, 2).end() == (code, "", sentence)


def test_a_killed_rank_is_the_cause_of_its_neighbours_crash(folder: Path) -> None:
    code, _, err = Launcher(folder, "one_is_killed_and_its_neighbour_crashes", 2).end()
    assert code == 1
    assert "rank 1 " in err
    assert "SIGKILL" in err
    assert "Traceback" not in err


def test_a_mismatch_is_no_death_so_its_table_is_finished(folder: Path) -> None:
    assert Launcher(folder, "mismatch", 2).end() == (1, "", "")
    assert (folder / "table").exists()


def test_more_ranks_than_the_machine_can_hold_are_refused() -> None:
    with pytest.raises(UserError, match="more than this machine can hold"):
        launch([sys.executable, "-c", ""], 10_000)
