"""A run of a small GPT-2, and what it comes to undisturbed on one machine."""

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.training.test_kills import ROOT, losses
from tests.verify.runs import GPT2, run_file


class Reference(NamedTuple):
    """The run.

    Args:
        path: its run file.
        losses: of each step, by megalm's own launcher.
    """

    path: Path
    losses: list[float]

    @staticmethod
    def make(folder: Path, steps: int, *, seconds: float, **sections: Any) -> "Reference":
        """Write the run file, and run it on this machine.

        Args:
            folder: for the file and the run directory.
            steps: of the run.
            seconds: that it may take.
            sections: of the run file; by default four ranks, dp=2 and tp=2, which save every 10 steps.
        """
        sections = {"layout": {"dp": 2, "tp": 2}, "checkpoint": {"every": 10}, **sections}
        train = {"precision": "fp32", "steps": steps, "micro_batch_size": 6, "eval_every": 0}
        reference = Reference(folder / "run.yaml", [])
        reference.path.write_text(run_file(GPT2, train=train, **sections).to_yaml())
        command = reference.train(reference.run_dir)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, done.stderr
        reference.losses.extend(losses(reference.run_dir))
        return reference

    @staticmethod
    def once(folder: Path, steps: int, *, seconds: float, **sections: Any) -> "Reference":
        """Make it, as above, unless another process has: the folder, named the same by all, may be there or not."""
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = Reference(folder / "run.yaml", [])
            if not (folder / "done").exists():
                made = Reference.make(folder, steps, seconds=seconds, **sections)
                (folder / "done").touch()
            return made._replace(losses=losses(made.run_dir))

    @property
    def run_dir(self) -> Path:
        """The directory of the undisturbed run."""
        return self.path.parent / "here"

    def train(self, run_dir: Path, *more: str) -> list[str]:
        """Return the command of a rank."""
        return [sys.executable, "-m", "megalm", "train", str(self.path), f"run.dir={run_dir}", *more]

    def launch(self, launcher: str, run_dir: Path, *more: str) -> list[str]:
        """Return the command of a launcher."""
        return [sys.executable, "-m", "megalm", "launch", launcher, str(self.path), f"run.dir={run_dir}", *more]
