"""Oracle: the rank that was killed, and who in the pipeline needs it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from megalm.training import metrics
from tests.training.test_kills import ROOT, processes_of, wait_until_gone
from tests.verify.runs import NEOX, run_file


def rank_of(pid: int) -> int:
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return int(next(word for word in words if word.startswith(b"RANK=")).split(b"=")[1])


def test_a_dead_rank_ends_all_with_what_each_neighbour_waited_for(tmp_path: Path) -> None:
    config = run_file(
        NEOX,
        layout={"pp": 3},
        run={"timeout": 30},
        train={"precision": "fp32", "steps": 100_000, "micro_batch_size": 3, "eval_every": 0},
        checkpoint={"every": 0},
    )
    path, run_dir = tmp_path / "run.yaml", tmp_path / "run"
    path.write_text(config.to_yaml())
    command = [sys.executable, "-m", "megalm", "train", str(path), f"run.dir={run_dir}"]
    launcher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    rows = run_dir / "metrics.jsonl"
    while launcher.poll() is None and not (rows.exists() and len(metrics.rows(rows)) > 5):
        time.sleep(0.02)
    pids = {rank_of(pid): pid for pid, parent in processes_of(run_dir).items() if parent == launcher.pid}
    os.kill(pids[1], signal.SIGKILL)
    _, told = launcher.communicate(timeout=20)
    wait_until_gone(run_dir, 1)
    assert launcher.returncode == 1
    assert f"rank 1 (process {pids[1]}) was ended by SIGKILL" in told
    message = r"message \d+ over pp from rank (1 to rank [02]|[02] to rank 1)"
    waits = rf"rank [02] \(step \d+, \d(RECV_[FB]\d)\) waits in {message}"
    assert re.search(rf"{waits}, .*, for rank 1", told), told
    assert "Traceback" not in told
