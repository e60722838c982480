"""The clocks of one rank: wall time, processor time of all its threads, and the peak of its resident memory."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from benchmarks.throughput.workload import Workload

Step = Callable[[int], float]


@dataclass(frozen=True)
class RankReading:
    """What one rank saw.

    Args:
        wall_s: seconds of the timed steps.
        cpu_s: user and system seconds of this process and all its threads during the timed steps.
        peak_bytes: highest resident memory since the process started (VmHWM).
        losses: of every step, warm-up included; the first is before any update.
        num_parameters: of the whole model, as the side itself counts them.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    losses: list[float]
    num_parameters: int


def peak_resident_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Return VmHWM of this process in bytes."""
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{status} has no VmHWM line: this benchmark needs Linux")


def _processor_seconds() -> float:
    return time.process_time()


def _together() -> None:
    if dist.is_initialized():
        dist.barrier()


def read_rank(step: Step, num_parameters: int, workload: Workload) -> RankReading:
    """Run the warm-up and the timed steps of one rank.

    Args:
        step: does one whole training step, given its number, and returns the loss of the global batch before its
            update; it returns only when the update is done.
        num_parameters: of the whole model.
        workload: says how many steps.
    """
    losses = [step(index) for index in range(workload.warmup_steps)]
    _together()
    wall, processor = time.perf_counter(), _processor_seconds()
    losses += [step(index) for index in range(workload.warmup_steps, workload.steps)]
    cpu_s = _processor_seconds() - processor
    _together()
    return RankReading(time.perf_counter() - wall, cpu_s, peak_resident_bytes(), losses, num_parameters)


def leave(reading: Mapping[str, Any]) -> NoReturn:
    """Print a rank's reading as its last line and end the process at once, without the interpreter's own end.

    There threads of gloo's may still run: about once in a hundred times the process aborted when its line was out
    ("terminate called without an active exception").
    """
    print(json.dumps(reading), flush=True)
    os._exit(0)
