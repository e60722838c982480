"""What a run of the benchmark shows and keeps."""

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from rich.table import Table

from benchmarks.machine import machine as hardware
from benchmarks.throughput import overhead
from benchmarks.throughput.claims import Claim, Measurement, medians, ratios
from benchmarks.throughput.overhead import Overhead
from benchmarks.throughput.workload import Workload

UNITS = {"tokens_per_s": "tokens/s", "tokens_per_cpu_s": "tokens/CPU-s", "peak_mib": "peak MiB a rank"}


def machine() -> dict[str, Any]:
    """Return what the numbers depend on beside the code."""
    found = hardware()
    return {
        **found,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{found['system']}, {' '.join(platform.libc_ver())}",
        "torch": torch.__version__,
        "megatron-core": version("megatron-core"),
    }


def verdicts(claim: Claim, measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return, for each bound of the claim, the ratio of medians and whether the bound holds."""
    found = ratios(measurements, claim.peer, claim.ours)
    return [
        {**asdict(bound), "measured": found[bound.quantity], "holds": bound.holds(found[bound.quantity])}
        for bound in claim.bounds
    ]


def result(
    name: str,
    workload: Workload,
    num_pairs: int,
    measured: Sequence[tuple[Claim, Sequence[Measurement]]],
    overheads: Mapping[str, Sequence[Overhead]],
) -> dict[str, Any]:
    """Return all that the results file of the benchmark ``name`` holds; ``overheads`` are by the names of claims."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "workload": {**asdict(workload), "num_parameters": workload.num_parameters},
        "pairs": num_pairs,
        "claims": [
            {
                "name": claim.name,
                "layout": {"dp": claim.dp, "tp": claim.tp, "pp": claim.pp, "threads_per_rank": claim.threads},
                "micro_batch_size": claim.micro_batch(workload),
                "ours": claim.ours,
                "peer": claim.peer,
                "medians": {side: medians(measurements, side) for side in (claim.ours, claim.peer)},
                "ratios": ratios(measurements, claim.peer, claim.ours),
                "bounds": verdicts(claim, measurements)
                + ([overhead.verdict(overheads[claim.name])] if claim.name in overheads else []),
                "measurements": [asdict(each) for each in measurements],
            }
            for claim, measurements in measured
        ],
    }


def table(measured: Sequence[tuple[Claim, Sequence[Measurement]]]) -> Table:
    """Return the medians of every claim, their ratios, and which bounds hold."""
    shown = Table(title="medians; a ratio is the first over the peer")
    for column in ("claim", "quantity", "first", "peer", "ratio", "bound", ""):
        shown.add_column(column, justify="left" if column in ("claim", "quantity") else "right")
    for claim, measurements in measured:
        ours, theirs = medians(measurements, claim.ours), medians(measurements, claim.peer)
        bounds = {bound.quantity: bound for bound in claim.bounds}
        for number, (quantity, ratio) in enumerate(ratios(measurements, claim.peer, claim.ours).items()):
            bound = bounds.get(quantity)
            shown.add_row(
                f"{claim.name} / {claim.peer}" if number == 0 else "",
                UNITS[quantity],
                f"{ours[quantity]:.1f}",
                f"{theirs[quantity]:.1f}",
                f"{ratio:.3f}",
                "" if bound is None else f"{'<=' if bound.at_most else '>='} {bound.ratio}",
                "" if bound is None else "holds" if bound.holds(ratio) else "FAILS",
            )
        shown.add_section()
    return shown
