"""Oracle: the rank that was stopped on one of two machines, and the system's list of processes."""

import os
import re
import signal
import time
from pathlib import Path

from megalm.launcher.look import FILE
from tests.cluster.slurm import Slurm
from tests.reference import Reference
from tests.training.test_kills import ROOT, processes_of, steps_done

TIMEOUT_S = 12


def task(run_dir: Path, number: int) -> int:
    """Return the process of a task of srun, as this machine counts processes: its own host counts otherwise."""
    (found,) = [
        pid
        for pid in processes_of(run_dir)
        if f"SLURM_PROCID={number}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]
    return found


def test_a_rank_stopped_on_one_machine_ends_those_of_both_with_one_screen(
    slurm: Slurm, reference: Reference, tmp_path: Path
) -> None:
    """Nothing but the ranks themselves ends them: srun would wait for the stopped one without end."""
    run_dir = tmp_path / "run"
    step = ("srun", "--nodes=2", "--ntasks-per-node=2", "--kill-on-bad-exit=0")
    more = ("train.steps=100000", f"run.timeout={TIMEOUT_S}", "checkpoint.every=0")
    with (tmp_path / "err").open("w") as err:
        srun = slurm.controller.start(*step, *reference.train(run_dir, *more), cwd=ROOT, stdout=err, stderr=err)
    try:
        while steps_done(run_dir) < 3:
            assert srun.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.1)
        os.kill(task(run_dir, 3), signal.SIGSTOP)
        began = time.monotonic()
        assert srun.wait(timeout=120) != 0
        assert time.monotonic() - began < TIMEOUT_S + 15 + 5  # srun itself needs a moment
    finally:
        slurm.controller.run("scancel", "--user=root", "--signal=KILL", "--full")
        srun.wait(timeout=60)
    told, verdict = (tmp_path / "err").read_text(), (run_dir / FILE).read_text()
    assert told.count("megalm: ") == 1, told
    assert verdict in told
    assert re.match(r"rank 3 \(process \d+ on h2\) (is stopped|shows no life)", verdict), verdict
    assert "rank 3 is pp=0 dp=1 cp=0 tp=1, on h2" in verdict
    assert re.search(
        r"rank 2 \(step \d+, .*\) waits in \w+ \d+ over \w+ \(ranks .*\), .*, for rank (\S+,)?3", verdict
    ), verdict
    assert processes_of(run_dir) == {}
