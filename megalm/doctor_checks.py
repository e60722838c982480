"""What ``megalm doctor`` looks at, one function a part; each returns what it found and changes nothing."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megalm import __version__
from megalm.extras import EXTRAS
from megalm.launcher.threads import usable_cores

GIB = 2**30
MIN_FREE_GIB = 1.0
RANKS_TIMEOUT_S = 150.0
CORE_PACKAGES = ("numpy", "pydantic", "rich", "ruamel.yaml", "safetensors", "tokenizers", "typer")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Args:
        part: of the installation or the machine.
        name: of what was looked at.
        value: what was seen.
        state: ``ok``; ``absent`` when training works without it; ``broken`` when it does not.
        mend: one sentence that says what to do when it is broken.
    """

    part: str
    name: str
    value: str
    state: Literal["ok", "absent", "broken"] = "ok"
    mend: str = ""


def versions() -> list[Finding]:
    """Return the versions of Python, megalm, torch and the packages that megalm needs."""
    found = [
        Finding("versions", "python", f"{platform.python_version()} ({sys.executable})"),
        Finding("versions", "megalm", __version__),
        Finding("versions", "system", f"{platform.system()} {platform.release()} {platform.machine()}"),
    ]
    try:
        found.append(Finding("versions", "torch", str(importlib.import_module("torch").__version__)))
    except (ImportError, OSError) as error:
        mend = "torch cannot be imported; install it again with pip install -c constraints.txt torch."
        found.append(Finding("versions", "torch", _first_line(error), "broken", mend))
    for package in CORE_PACKAGES:
        try:
            found.append(Finding("versions", package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            mend = f"{package} is not installed; run pip install megalm again."
            found.append(Finding("versions", package, "not installed", "broken", mend))
    return found


def devices(torch: Any) -> list[Finding]:
    """Return the processor, its memory, and each GPU that torch can use."""
    found = [
        Finding("devices", "cpu", f"{usable_cores()} cores, {torch.get_num_threads()} threads in one process"),
        Finding("devices", "memory", f"{_memory_bytes() / GIB:.1f} GiB"),
    ]
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(num_gpus):
        about = torch.cuda.get_device_properties(number)
        found.append(Finding("devices", f"cuda:{number}", f"{about.name}, {about.total_memory / GIB:.0f} GiB"))
    if not num_gpus:
        found.append(Finding("devices", "cuda", "no GPU that this torch can use: runs take the CPU", "absent"))
    return found


def backends(torch: Any) -> list[Finding]:
    """Return which of torch's process-group backends this build has."""
    distributed = torch.distributed
    have_gloo, have_nccl, have_mpi = (
        distributed.is_available() and getattr(distributed, f"is_{name}_available")()
        for name in ("gloo", "nccl", "mpi")
    )
    mend = "This build of torch has no gloo; install the build of constraints.txt."
    return [
        Finding("backends", "gloo", "there", "ok") if have_gloo else Finding("backends", "gloo", "no", "broken", mend),
        _optional("backends", "nccl", have_nccl, "needed on GPUs only"),
        _optional("backends", "mpi", have_mpi, "not needed: ranks started by mpirun talk over gloo or nccl"),
    ]


def process_groups(torch: Any) -> list[Finding]:
    """Start two ranks that meet and add a number: over gloo, and over nccl where there are two GPUs."""
    kinds = [("gloo", "cpu")]
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        kinds.append(("nccl", "cuda"))
    found = []
    for backend, device_type in kinds:
        start = time.monotonic()
        failure = two_ranks(device_type)
        if failure is None:
            said = f"2 ranks met and summed in {time.monotonic() - start:.1f} s"
            found.append(Finding("process groups", backend, said))
        else:
            mend = f"Two ranks on this machine cannot meet over {backend} ({failure}); look at what stops 127.0.0.1."
            found.append(Finding("process groups", backend, failure, "broken", mend))
    return found


def two_ranks(device_type: str, timeout_s: float = RANKS_TIMEOUT_S) -> str | None:
    """Run two processes of ``doctor_rank`` and end them; return ``None``, or what stopped them in one line."""
    with socket.create_server(("127.0.0.1", 0)) as meeting:
        port, descriptor = str(meeting.getsockname()[1]), str(meeting.fileno())
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "megalm.doctor_rank", str(rank), port, descriptor, device_type],
                pass_fds=[meeting.fileno()] if rank == 0 else [],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
    deadline = time.monotonic() + timeout_s
    try:
        told = [process.communicate(timeout=max(0.1, deadline - time.monotonic()))[1] for process in started]
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s"
    finally:
        for process in started:
            process.kill()
            process.communicate()
    for process, errors in zip(started, told, strict=True):
        if process.returncode:
            lines = errors.strip().splitlines()
            return lines[-1].rstrip(".") if lines else f"a rank ended with exit code {process.returncode}"
    return None


def disk() -> list[Finding]:
    """Return the free space where runs and temporary files go, and whether files can be made there."""
    found = []
    for name, path in (("here", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(path).free / GIB
        seen = f"{free:.1f} GiB free in {path}"
        try:
            with tempfile.TemporaryFile(dir=path):
                writable = True
        except OSError:
            writable = False
        if not writable:
            mend = f"No file can be made in {path}; go to another directory or mend its permissions."
            found.append(Finding("disk", name, f"{seen}, not writable", "broken", mend))
        elif free < MIN_FREE_GIB:
            mend = f"{path} has {free:.1f} GiB free; free at least {MIN_FREE_GIB:.0f} GiB for checkpoints."
            found.append(Finding("disk", name, seen, "broken", mend))
        else:
            found.append(Finding("disk", name, seen))
    return found


def tools() -> list[Finding]:
    """Return the programs that some features start."""
    wanted = (
        ("compiler", ("g++", "c++", "clang++"), "needed to build extras and by torch.compile; apt install g++"),
        ("mpirun", ("mpirun", "mpiexec"), "needed only to start ranks by MPI"),
        ("srun", ("srun",), "needed only on a Slurm cluster"),
    )
    found = []
    for name, programs, why in wanted:
        path = next((path for path in map(shutil.which, programs) if path), None)
        found.append(Finding("tools", name, path) if path else Finding("tools", name, f"not found: {why}", "absent"))
    return found


def extras() -> list[Finding]:
    """Return each optional package with its version, or the line that installs it."""
    return [
        Finding("extras", extra.name, f"{extra.package} {extra.version}")
        if extra.version
        else Finding("extras", extra.name, f"{extra.install_line} for {extra.purpose}", "absent")
        for extra in EXTRAS
    ]


def _optional(part: str, name: str, there: bool, why: str) -> Finding:
    return (
        Finding(part, name, "there") if there else Finding(part, name, f"not in this build of torch; {why}", "absent")
    )


def _memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or its control group's limit if that is lower."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return machine if text == "max" else min(machine, int(text))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
