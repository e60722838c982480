"""``megalm launch mpi``: the ranks of a run by mpirun, MPICH's or Open MPI's, on this machine or those of a hostfile.

All that is started gets its arguments as a list; no shell reads them. Ranks that fail say by themselves why, and have
MPI end those that cannot.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from megalm.errors import UserError
from megalm.launcher.conclusion import Outcome, asked_to_end
from megalm.launcher.exit_codes import FAILED, PREEMPTED, REFUSED
from megalm.launcher.hostfile import Slots, fill
from megalm.launcher.job import Job
from megalm.launcher.look import FILE as VERDICT
from megalm.launcher.look import clear_verdict
from megalm.launcher.nodes import check_nodes
from megalm.launcher.parent import PR_SET_PDEATHSIG
from megalm.launcher.restarts import run_again
from megalm.launcher.signals import heard_by
from megalm.run_config import RunConfig

Kind = Literal["mpich", "openmpi"]
SIGNS: Mapping[str, Kind] = {"HYDRA": "mpich", "Intel(R) MPI": "mpich", "Open MPI": "openmpi", "OpenRTE": "openmpi"}
"""What each kind says of its version."""
SURVIVED: Mapping[Kind, tuple[signal.Signals, ...]] = {
    "mpich": (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1),
    "openmpi": (signal.SIGUSR1, signal.SIGUSR2),
}
"""Signals that mpirun hands on to the ranks without killing them itself."""
FORWARDED = ("PYTHON", "MASTER_", "GLOO_", "NCCL_", "TORCH", "OMP_", "MKL_", "CUDA_", "MEGALM_", "WANDB_", "HF_")
"""Beginnings of the variables that Open MPI's ranks on other machines get; MPICH's get all."""
VERSION_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Mpirun:
    """A program that starts MPI's ranks.

    Args:
        path: of it.
        kind: whose it is.
    """

    path: str
    kind: Kind

    @staticmethod
    def find(asked: str | None) -> "Mpirun":
        """Return the mpirun that was asked for, that of this Python's environment, or that on PATH.

        Raises:
            UserError: there is none, or it is of no kind that is known.
        """
        beside = Path(sys.executable).parent / "mpirun"
        path = asked or (str(beside) if beside.is_file() else shutil.which("mpirun"))
        if path is None:
            raise UserError("there is no mpirun; install one with pip install 'megalm[mpi]', or name it with --mpirun.")
        try:
            told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = getattr(error, "strerror", None) or "it does not answer"
            raise UserError(
                f"{path} cannot be run ({reason}); name MPICH's or Open MPI's mpirun with --mpirun."
            ) from error
        kind = next((kind for sign, kind in SIGNS.items() if sign in told.stdout), None)
        if kind is None:
            raise UserError(f"{path} is not MPICH's or Open MPI's mpirun; name one of these with --mpirun.")
        return Mpirun(path, kind)

    def command(
        self, num_ranks: int, hosts: Sequence[Slots], program: Sequence[str], env: Mapping[str, str]
    ) -> list[str]:
        """Return what starts the ranks, in the order of the hosts.

        Args:
            num_ranks: how many.
            hosts: the ranks of each machine; none for where mpirun itself puts them, mostly this machine.
            program: of a rank.
            env: of this process.
        """
        names = ",".join(f"{host.host}:{host.slots}" for host in hosts)
        if self.kind == "mpich":
            return [self.path, "-n", str(num_ranks), *(("-hosts", names) if hosts else ()), *program]
        options = [
            "--oversubscribe",
            "--bind-to",
            "none",
            "--map-by",
            "slot",
        ]  # its own default is a core for each rank
        if os.geteuid() == 0:
            options.append("--allow-run-as-root")
        if hosts:
            options += ["--host", names]
            options += [word for name in sorted(env) if name.startswith(FORWARDED) for word in ("-x", name)]
        return [self.path, "-n", str(num_ranks), *options, *program]


def run(
    config: RunConfig, train: Sequence[str], mpirun: str | None, num_ranks: int | None, hosts: Sequence[Slots]
) -> int:
    """Start the ranks by mpirun, again as ``run.max_restarts`` allows, and return the exit code of the run.

    Args:
        config: the run.
        train: arguments of ``megalm train``.
        mpirun: the program; ``None`` to look for it.
        num_ranks: of the run; ``None`` for those of the layout.
        hosts: with their slots; none for this machine, or those that a job around this process has.

    Raises:
        UserError: the layout does not fit, or there is no mpirun.
    """
    num_ranks = config.layout.world_size if num_ranks is None else num_ranks
    config.layout.check(num_ranks)
    dealt = fill(hosts, num_ranks) if hosts else []
    if dealt:
        check_nodes(config.layout, [host.slots for host in dealt], config.tensor.across_nodes)
    program = Mpirun.find(mpirun)
    Job.here("mpi").write(Path(config.run.dir))

    def attempt(more: Sequence[str]) -> Outcome:
        rank = [sys.executable, "-m", "megalm", "train", *train, *more]
        command = program.command(num_ranks, dealt, rank, os.environ)
        return _run(command, program.kind, config.run.stop_signals, Path(config.run.dir))

    return run_again(attempt, config.run)


def _run(command: Sequence[str], kind: Kind, stop_signals: Sequence[str], run_dir: Path) -> Outcome:
    """Run mpirun to its end; signals are handed on to it."""
    clear_verdict(run_dir)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)
        if process is not None:
            process.send_signal(handed_on(number, kind, stop_signals))

    def end_with_launcher() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    with heard_by(receive):
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                process_group=0,
                preexec_fn=end_with_launcher,
            )
        except OSError as error:
            raise UserError(f"{command[0]} cannot be run ({error.strerror}); name another with --mpirun.") from error
        if received:  # before there was an mpirun
            process.send_signal(handed_on(received[0], kind, stop_signals))
        code = process.wait()
    told = ""
    with suppress(OSError):
        told = (run_dir / VERDICT).read_text().partition("\n")[0]
    return _outcome(code, received, told)


def handed_on(number: int, kind: Kind, stop_signals: Sequence[str]) -> int:
    """Return the signal that tells mpirun what ``number`` tells the launcher.

    mpirun dies by some, with all its ranks, where they are to save first; one that asks for the same takes their place.
    """
    asks = [signal.Signals[name] for name in stop_signals]
    if number in asks and number not in SURVIVED[kind]:
        return next((other for other in asks if other in SURVIVED[kind]), number)
    return number


def _outcome(code: int, received: Sequence[int], told: str) -> Outcome:
    """Return how the run ended.

    Args:
        code: mpirun's.
        received: the signals that the launcher got.
        told: the first line of what the ranks found, if they did.
    """
    if code in (0, PREEMPTED):
        return Outcome(code, "", bool(received))
    if received:
        return asked_to_end(received)
    how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    return Outcome(
        REFUSED if code == REFUSED else FAILED, told or f"mpirun ended with {how}; what its ranks said stands above."
    )
