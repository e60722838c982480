"""Slurm's own programs: a batch file is checked and submitted, a job's state asked, a job stopped."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from megalm.errors import UserError

TIMEOUT_S = 60.0
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING")
AT_WORK = ("RUNNING", "COMPLETING", "SIGNALING", "SUSPENDED", "STOPPED", "RESIZING", "STAGE_OUT")


class JobState(NamedTuple):
    """What Slurm says of a job.

    Args:
        name: its state, in Slurm's word; empty where Slurm has forgotten the job.
        reason: why it waits, in Slurm's word.
        nodes: where it runs, in Slurm's notation.
    """

    name: str
    reason: str = ""
    nodes: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is still to start."""
        return self.name in WAITING

    @property
    def works(self) -> bool:
        """Whether it has nodes."""
        return self.name in AT_WORK


def check(text: str) -> str:
    """Return what Slurm says of a batch file that it would take.

    Raises:
        UserError: Slurm would not, and why.
    """
    return _ask(["sbatch", "--test-only"], "refuses the job", text).stderr.removeprefix("sbatch: ").strip()


def submit(path: str) -> str:
    """Submit a batch file and return the job's id.

    Raises:
        UserError: Slurm refuses it.
    """
    answer = _ask(["sbatch", "--parsable", path], "refuses the job").stdout.strip()
    return answer.partition(";")[0]


def state_of(job: str) -> JobState:
    """Return what Slurm says of a job.

    Raises:
        UserError: Slurm cannot be asked here.
    """
    asked = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r|%N"]
    answer = _run(asked)
    for line in answer.stdout.splitlines():
        name, _, rest = line.partition("|")
        reason, _, nodes = rest.partition("|")
        return JobState(name, "" if reason == "None" else reason, nodes)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        raise UserError(f"Slurm does not answer ({_complaint(answer)}); ask again where Slurm's commands work.")
    return JobState("")


def ask_to_end(job: str) -> None:
    """Have the batch file of a running job ask its ranks to save and to end; it is not requeued.

    Raises:
        UserError: Slurm refuses.
    """
    _ask(["scancel", "--batch", "--signal=TERM", job], f"does not signal job {job}")


def withdraw(job: str) -> None:
    """Take a job that waits out of the queue.

    Raises:
        UserError: Slurm refuses.
    """
    _ask(["scancel", job], f"does not cancel job {job}")


def knows_containers() -> bool:
    """Return whether srun has pyxis' option for an image."""
    return "--container-image" in _run(["srun", "--help"]).stdout


def _ask(command: Sequence[str], refusal: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    answer = _run(command, stdin)
    if answer.returncode:
        raise UserError(f"Slurm {refusal}: {_complaint(answer)}.")
    return answer


def _run(command: Sequence[str], stdin: str = "") -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command,
            input=stdin,
            env=_without_job(os.environ),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {command[0]} on this machine; run this where Slurm's commands are"
            + (", or add --dry-run to see the batch file." if command[0] == "sbatch" else ".")
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} did not answer within {TIMEOUT_S:g} s; try again.") from error


def _without_job(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that does not describe another job, when this is typed inside of one."""
    return {name: value for name, value in env.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}


def _complaint(answer: "subprocess.CompletedProcess[str]") -> str:
    """Return what one of Slurm's programs has said, as part of a sentence, each thing once."""
    lines = [re.sub(r"^(\w+: )?((error|fatal): )?", "", line).strip() for line in answer.stderr.splitlines()]
    return "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line)) or f"exit code {answer.returncode}"
