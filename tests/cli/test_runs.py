"""Oracle: a run that is really trained, its process, and the files it leaves; answers of a program like squeue."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megalm.cli.main import run
from megalm.launcher.ending import Ending
from megalm.launcher.job import FILE, Job
from tests.training.test_kills import ROOT, start, steps_done
from tests.verify.runs import GPT2, run_file

MEGALM = (sys.executable, "-m", "megalm")


def said(*words: str) -> str:
    return subprocess.run([*MEGALM, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def training(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Start a long run of two ranks, and wait for its fifth step."""
    config = run_file(
        GPT2,
        layout={"dp": 2},
        train={"precision": "fp32", "steps": 100_000, "micro_batch_size": 3, "eval_every": 0},
        checkpoint={"every": 0},
    )
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    process = start(tmp_path / "run.yaml", tmp_path / "run")
    while steps_done(tmp_path / "run") < 5 and process.poll() is None:
        time.sleep(0.01)
    yield tmp_path / "run", process
    process.kill()
    process.wait()


def test_a_run_is_seen_followed_and_stopped(training: tuple[Path, subprocess.Popen[bytes]]) -> None:
    run_dir, process = training
    told = said("status", str(run_dir))
    assert f"{run_dir}: launched by local on {platform.node()}, process {process.pid}\nrunning: process" in told
    assert " of 100000, loss " in told
    assert "no checkpoint yet" in told
    assert [line.partition(" (")[0] for line in told.splitlines()[4:]] == ["rank 0", "rank 1"]
    assert f" on {platform.node()}): in step " in told
    followed = run_dir.parent / "followed"
    with followed.open("w") as screen:
        command = [*MEGALM, "logs", "--follow", "--lines", "2", str(run_dir)]
        follower = subprocess.Popen(command, cwd=ROOT, stdout=screen)
    while followed.read_text().count("\n") < 4 and follower.poll() is None:
        time.sleep(0.05)
    assert "was asked to save and to end" in said("stop", str(run_dir))
    assert process.wait(timeout=60) == 75
    assert follower.wait(timeout=60) == 0
    assert f"SIGTERM: saved after step {steps_done(run_dir)} of 100000" in followed.read_text()
    lines = [line for line in followed.read_text().splitlines() if line.startswith("step ")]
    numbers = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert numbers == list(range(numbers[0], steps_done(run_dir) + 1))
    told = said("status", str(run_dir))
    assert "ended with exit code 75: SIGTERM: saved after step" in told
    assert f"newest checkpoint: step {steps_done(run_dir)}" in told
    assert "does not run: ended with exit code 75" in said("stop", str(run_dir))
    assert said("logs", "--lines", "1", str(run_dir)).count("\n") == 1


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a run directory with nothing in it but a log."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("".join(f"line {number}\n" for number in range(50)))
    return tmp_path / "run"


def answer(*words: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = run([str(word) for word in words], {})
    out, err = capsys.readouterr()
    return code, out + err


@pytest.mark.parametrize("verb", ["status", "stop", "logs"])
def test_what_is_no_run_is_one_sentence(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = answer(verb, tmp_path, capsys=capsys)
    assert code == 2
    assert told == f"megalm: {tmp_path} is not the directory of a run; name the run.dir of one.\n"


def test_a_run_without_a_launch_is_told_from_its_files(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer("status", run_dir, capsys=capsys) == (
        0,
        f"{run_dir}: started by another launcher than megalm's\nwhether it runs is not known here\nno step yet\n"
        "no checkpoint yet\n",
    )
    code, told = answer("stop", run_dir, capsys=capsys)
    assert (code, "SIGTERM to a rank" in told) == (2, True)
    assert answer("logs", run_dir, "--lines", "2", capsys=capsys) == (0, "line 48\nline 49\n")


def test_a_run_of_another_host_is_stopped_there(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Job("torchrun", str(os.getpid()), "elsewhere").write(run_dir)
    assert "started on host elsewhere, which alone knows" in answer("status", run_dir, capsys=capsys)[1]
    assert answer("stop", run_dir, capsys=capsys) == (
        2,
        f"megalm: {run_dir} was started on host elsewhere; type megalm stop {run_dir} there.\n",
    )


def test_another_process_with_the_same_number_is_not_signalled(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        Job("local", str(stranger.pid), platform.node()).write(run_dir)
        os.utime(run_dir / FILE, (0, time.time() - 3600))
        code, told = answer("stop", run_dir, capsys=capsys)
        assert (code, told) == (0, f"{run_dir} does not run: ended without a word, as when it is killed.\n")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_run_is_stopped_by_a_signal_that_it_hears(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "run.yaml").write_text("run: {stop_signals: [SIGUSR2]}\n")
    process = subprocess.Popen(["sleep", "60"])
    Job("local", str(process.pid), platform.node()).write(run_dir)
    assert answer("stop", run_dir, capsys=capsys)[0] == 0
    assert process.wait() == -signal.SIGUSR2


@pytest.mark.parametrize(
    ("squeue", "shown", "stopped"),
    [
        ("echo 'PENDING|Resources|'", "pending (Resources)", "job 12 was taken out of Slurm's queue"),
        (
            "echo 'RUNNING|None|h[1-2]'",
            "running on h[1-2]",
            "job 12 was asked to save and to end; it will not be requeued",
        ),
        (
            "echo 'FAILED|NonZeroExitCode|h1'",
            "ended with exit code 1: no luck; Slurm says FAILED",
            "does not run: ended",
        ),
        (
            "echo 'error: Invalid job id specified' >&2; exit 1",
            "ended with exit code 1: no luck\n",
            "does not run: ended",
        ),
    ],
)
def test_a_job_of_slurms_is_told_in_its_words(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    squeue: str,
    shown: str,
    stopped: str,
) -> None:
    for name, program in (("squeue", squeue), ("scancel", f'echo "$@" >{tmp_path}/cancelled')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    Job("slurm", "12", "h0", "slurm-12.log").write(run_dir)
    Ending(1, "no\nluck").write(run_dir)
    assert shown in answer("status", run_dir, capsys=capsys)[1]
    code, told = answer("stop", run_dir, capsys=capsys)
    assert (code, stopped in told) == (0, True)
    cancelled = (tmp_path / "cancelled").read_text() if (tmp_path / "cancelled").exists() else ""
    wanted = {"PENDING": "12\n", "RUNNING": "--batch --signal=TERM 12\n"}
    assert cancelled == wanted.get(squeue.partition("'")[2].partition("|")[0], "")
    code, told = answer("logs", run_dir, capsys=capsys)
    assert (code, "slurm-12.log is not there yet" in told) == (2, True)


def test_a_verdict_is_shown(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "verdict.txt").write_text("rank 1 is gone\n")
    told = answer("status", run_dir, capsys=capsys)[1]
    assert told.endswith(f"why it did not go on, from {run_dir}/verdict.txt:\nrank 1 is gone\n")


def test_slurm_that_does_not_answer_is_one_sentence(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho 'squeue: error: Unable to contact slurm controller' >&2\nexit 1\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    Job("slurm", "12", "h0", "slurm-12.log").write(run_dir)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, told = answer("status", run_dir, capsys=capsys)
    assert code == 2
    assert "Slurm does not answer (Unable to contact slurm controller)" in told
    (tmp_path / "squeue").unlink()
    code, told = answer("status", run_dir, capsys=capsys)
    assert (code, "there is no squeue on this machine" in told) == (2, True)
