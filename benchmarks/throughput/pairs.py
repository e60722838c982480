"""Both sides measured in turn, each time in fresh processes."""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.throughput.claims import Claim, Measurement, measurement
from benchmarks.throughput.measure import RankReading
from benchmarks.throughput.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 1800.0
LOSS_MARGIN = 0.2
"""An untrained model's loss is ln(vocabulary), and half the variance of its logits (0.08 here) above."""
DROPPED = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_", "KMP_", "MKL_", "TORCH", "RANK", "WORLD_SIZE", "LOCAL_")
"""Beginnings of variables that would change the allocator, the threads or the placement of a side."""


def turns(peer: str, num_pairs: int, ours: str = "megalm") -> Iterator[str]:
    """Yield the sides in the order they are measured: ours and the peer in turn, the first of a pair by turns too."""
    for pair in range(num_pairs):
        yield from (ours, peer) if pair % 2 == 0 else (peer, ours)


def measure_pairs(
    claim: Claim, workload: Workload, num_pairs: int, tell: Callable[[Measurement], None]
) -> list[Measurement]:
    """Measure both sides ``num_pairs`` times and check that they do the same work.

    Args:
        claim: the layout and the peer.
        workload: what each side does.
        num_pairs: how often.
        tell: called after each measurement.

    Raises:
        RuntimeError: a rank failed, or a side does other work.
    """
    measured = []
    for side in turns(claim.peer, num_pairs, claim.ours):
        measured.append(measure_side(claim, side, workload))
        tell(measured[-1])
    return measured


def measure_side(claim: Claim, side: str, workload: Workload) -> Measurement:
    """Measure one side once; see ``measure_pairs``."""
    measured = measurement(side, _run_ranks(claim, side, workload), workload)
    expected = math.log(workload.vocab_size)
    if measured.num_parameters != workload.num_parameters or abs(measured.first_loss - expected) > LOSS_MARGIN:
        raise RuntimeError(
            f"{side} does other work: {measured.num_parameters} parameters of {workload.num_parameters}, and a first "
            f"loss of {measured.first_loss:.3f} where ln(vocabulary) is {expected:.3f}"
        )
    return measured


def environment(base: Mapping[str, str], rank: int, num_ranks: int, threads: int, port: int) -> dict[str, str]:
    """Return a rank's environment: the default allocator, so many threads, its place among the others."""
    kept = {name: value for name, value in base.items() if not name.startswith(DROPPED)}
    own = {"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"}
    if num_ranks > 1:
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        own |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        own |= {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
    return kept | own


def _run_ranks(claim: Claim, side: str, workload: Workload) -> list[RankReading]:
    command = ["benchmarks.throughput.rank", side, "--workload", json.dumps(asdict(workload))]
    command += ["--dp", str(claim.dp), "--tp", str(claim.tp), "--pp", str(claim.pp), "--threads", str(claim.threads)]
    command += ["--micro-batch-size", str(claim.micro_batch(workload))]
    return [RankReading(**json.loads(line)) for line in last_lines(command, claim, side)]


def last_lines(module: Sequence[str], claim: Claim, side: str) -> list[str]:
    """Run the ranks of a claim in fresh processes and return the last line that each one prints.

    Args:
        module: and its arguments; the same for all ranks.
        claim: says how many ranks and threads.
        side: for the error.

    Raises:
        RuntimeError: a rank failed.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        outputs = [Path(folder) / str(rank) for rank in range(claim.num_ranks)]
        processes = []
        for rank, output in enumerate(outputs):
            env = environment(os.environ, rank, claim.num_ranks, claim.threads, port)
            with output.open("w") as file:
                command = [sys.executable, "-m", *module]
                processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT))
        try:
            failed = _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if failed is not None:
            raise RuntimeError(f"rank {failed} of {side} on {claim.name} failed:\n{outputs[failed].read_text()}")
        return [output.read_text().splitlines()[-1] for output in outputs]


def _wait(processes: list["subprocess.Popen[bytes]"]) -> int | None:
    """Return when all have ended well, or the number of the first that has not."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code or (code is None and time.monotonic() > deadline):
                return rank
        if None not in codes:
            return None
        time.sleep(0.05)
