"""Oracle: a preparation that nothing interrupted, byte for byte; and the process table."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megalm.data.prepare import prepare
from tests.data.corpus import files_of, prose, write_lines

PREPARE = """
import sys
from pathlib import Path
from rich.console import Console
from megalm.data.prepare import prepare
console = Console(stderr=True)
prepare([sys.argv[1]], Path(sys.argv[2]), 500, workers=2, validation=0.2, shard_bytes=6000, console=console)
"""
COMMAND = "from megalm.cli.data import app; app(prog_name='megalm data')"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("source") / "x.jsonl", [prose(seed, 400) for seed in range(100)])


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python with this code and these arguments, in a process group that the end of the test ends."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: Path | str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stderr=pipe, stdout=pipe, text=True, start_new_session=True))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)


def wait_for(condition: Iterator[object]) -> None:
    deadline = time.monotonic() + 60
    while not next(condition):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def exists(folder: Path, pattern: str, count: int) -> Iterator[bool]:
    while True:
        yield len(list(folder.glob(pattern))) >= count


def processes() -> Iterator[tuple[int, str, int, int]]:
    """Yield number, state, parent and group of every process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            yield int(path.parent.name), state, int(parent), int(group)


def group_is_gone(group: int) -> Iterator[bool]:
    """Whether every process of the group has ended; one that only waits to be reaped has."""
    while True:
        yield all(state == "Z" for _, state, _, of_group in processes() if of_group == group)


def test_killed_in_every_step_it_goes_on_and_ends_the_same(source: Path, tmp_path: Path, start: Start) -> None:
    output = tmp_path / "out"
    whole = tmp_path / "whole"
    prepare([str(source)], whole, 500, validation=0.2)
    kept: dict[Path, int] = {}
    for pattern, count in (("clean-*.npz", 3), ("fates.bin", 1), ("tokens-*-train.idx", 10)):
        process = start(PREPARE, source, output)
        wait_for(exists(output / ".prepare", pattern, count))
        process.kill()
        process.communicate(timeout=60)
        wait_for(group_is_gone(process.pid))
        assert not (output / "meta.json").exists()
        assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished shard was done again"
        kept |= {path: path.stat().st_mtime_ns for path in (output / ".prepare").glob("clean-*.npz")}
    process = start(PREPARE, source, output)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    assert "done before" in messages
    assert files_of(output) == files_of(whole)
    assert not (output / ".prepare").exists()


def test_control_c_says_how_to_go_on(source: Path, tmp_path: Path, start: Start) -> None:
    output = tmp_path / "out"
    arguments = ["prepare", source, "--output", output, "--vocab-size", "500", "--workers", "2"]
    process = start(COMMAND, *arguments)
    wait_for(exists(output / ".prepare", "plan", 1))
    os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert messages.splitlines()[-1] == "interrupted: the same command goes on where it stopped"
    assert "Traceback" not in messages
    wait_for(group_is_gone(process.pid))


def test_a_killed_worker_is_one_sentence(source: Path, tmp_path: Path, start: Start) -> None:
    output = tmp_path / "out"
    process = start(PREPARE, source, output)
    wait_for(exists(output / ".prepare", "clean-*.npz", 1))
    children = [number for number, _, parent, _ in processes() if parent == process.pid]
    workers = [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    os.kill(workers[0], signal.SIGKILL)
    _, messages = process.communicate(timeout=60)
    assert "UserError: A worker process was killed (out of memory?)" in messages
    wait_for(group_is_gone(process.pid))
