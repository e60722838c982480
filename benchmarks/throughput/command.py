"""The command line of a benchmark that is made of claims: measure, show, keep, judge."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.throughput import overhead
from benchmarks.throughput.claims import Claim, Measurement
from benchmarks.throughput.overhead import Overhead
from benchmarks.throughput.pairs import ROOT, measure_pairs
from benchmarks.throughput.report import result, table
from benchmarks.throughput.workload import Workload


def measure(name: str, description: str | None, claims: Sequence[Claim]) -> int:
    """Measure the claims that the command line names, all by default.

    Args:
        name: of the benchmark's folder and of its results.
        description: for ``--help``.
        claims: to choose from.

    Returns:
        0 if every bound holds, else 1.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    default = ROOT / "benchmarks" / "results" / f"{name}-{datetime.now(UTC):%Y-%m-%d}.json"
    parser.add_argument("--pairs", type=int, default=5, help="measurements of each side, by turns")
    parser.add_argument("--claims", nargs="+", default=[claim.name for claim in claims], help="which to measure")
    parser.add_argument("--workload", type=json.loads, default={}, help="fields of Workload as JSON, for a trial")
    parser.add_argument("--output", type=Path, default=default, help="the results file")
    arguments = parser.parse_args()
    chosen = [claim for claim in claims if claim.name in arguments.claims]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)  # half an hour of measurements must not be lost
    workload = Workload(**arguments.workload)
    console = Console(stderr=True)
    measured = []
    overheads: dict[str, list[Overhead]] = {}
    for claim in chosen:

        def tell(seen: Measurement, name: str = claim.name) -> None:
            console.print(
                f"{name} {seen.side}: {seen.tokens_per_s:.1f} tokens/s, {seen.tokens_per_cpu_s:.1f} tokens/CPU-s, "
                f"{seen.peak_mib:.0f} MiB, first loss {seen.first_loss:.4f}, {seen.num_parameters} parameters",
                highlight=False,
                soft_wrap=True,
            )

        measured.append((claim, measure_pairs(claim, workload, arguments.pairs, tell)))
        if claim.pp > 1:
            overheads[claim.name] = overhead.measure(claim, workload)
            shares = ", ".join(f"{each.share:.2%}" for each in overheads[claim.name])
            console.print(f"{claim.name} megalm: engine over stage CPU time of each rank {shares}", highlight=False)
    found = result(name, workload, arguments.pairs, measured, overheads)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    Console().print(table(measured))
    print(f"results: {arguments.output}")
    return 0 if all(bound["holds"] for claim in found["claims"] for bound in claim["bounds"]) else 1
