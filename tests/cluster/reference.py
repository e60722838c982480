"""A short run of four ranks that many launchers start, and what it comes to on one machine."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.training.test_kills import ROOT, losses
from tests.verify.runs import GPT2, run_file

STEPS = 20


class Reference(NamedTuple):
    """The run.

    Args:
        path: its run file.
        losses: of each step, by megalm's own launcher.
    """

    path: Path
    losses: list[float]

    @staticmethod
    def make(folder: Path) -> "Reference":
        """Write the run file, and run it on this machine."""
        config = run_file(
            GPT2,
            layout={"dp": 2, "tp": 2},
            run={"timeout": 60},
            train={"precision": "fp32", "steps": STEPS, "micro_batch_size": 3, "eval_every": 0},
            checkpoint={"every": 10},
        )
        (folder / "run.yaml").write_text(config.to_yaml())
        reference = Reference(folder / "run.yaml", [])
        done = subprocess.run(reference.train(folder / "here"), cwd=ROOT, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        reference.losses.extend(losses(folder / "here"))
        return reference

    def train(self, run_dir: Path, *more: str) -> list[str]:
        """Return the command of a rank."""
        return [sys.executable, "-m", "megalm", "train", str(self.path), f"run.dir={run_dir}", *more]

    def launch(self, launcher: str, run_dir: Path, *more: str) -> list[str]:
        """Return the command of a launcher."""
        return [sys.executable, "-m", "megalm", "launch", launcher, str(self.path), f"run.dir={run_dir}", *more]
