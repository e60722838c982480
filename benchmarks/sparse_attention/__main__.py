"""``python -m benchmarks.sparse_attention``: measure every pattern at every length; exit 1 if a bound fails."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.sparse_attention.measure import HEAD_DIM, HEADS, LENGTHS, PATTERNS, Measurement, measure

ROOT = Path(__file__).parents[2]
MOST_TIME, MOST_MEMORY = 5.0, 4.0
"""How many times as much four times the length may take, of a pattern: four, and of time a quarter more for noise."""


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparse_attention", description=__doc__)
    default = ROOT / "benchmarks" / "results" / f"sparse-attention-{datetime.now(UTC):%Y-%m-%d}.json"
    parser.add_argument("--repeat", type=int, default=5, help="repetitions, of which the fastest counts")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=LENGTHS, help="three or more, each twice the one before"
    )
    parser.add_argument("--output", type=Path, default=default, help="the results file")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        pattern, length = arguments.case
        print(json.dumps(asdict(measure(pattern, int(length), arguments.repeat))))
        return 0
    results = []
    for pattern in PATTERNS:
        measured = [in_a_fresh_process(pattern, length, arguments.repeat) for length in arguments.lengths]
        results.append(result(pattern, arguments.lengths, measured))
        print("\n".join(summary(results[-1])), flush=True)
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.sparse_attention {' '.join(sys.argv[1:])}".strip(),
        "machine": {**machine(), "torch": torch.__version__, "load": os.getloadavg()},
        "heads": HEADS,
        "head_dim": HEAD_DIM,
        "patterns": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"results: {arguments.output}")
    return 0 if all(each["holds"] for each in results) else 1


def in_a_fresh_process(pattern: str, length: int, repeat: int) -> Measurement:
    """Measure where nothing else has used memory."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.sparse_attention",
        f"--repeat={repeat}",
        "--case",
        pattern,
        str(length),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Measurement(**json.loads(done.stdout))


def result(pattern: str, lengths: Sequence[int], measured: Sequence[Measurement]) -> dict[str, Any]:
    """Return what is kept of a pattern; the last two doublings must be within the bounds, but of dense attention."""
    seconds, peaks = [min(each.seconds) for each in measured], [each.peak_mib for each in measured]
    time_ratios, memory_ratios = ([b / a for a, b in pairwise(numbers)] for numbers in (seconds, peaks))
    within = seconds[-1] <= MOST_TIME * seconds[-3] and peaks[-1] <= MOST_MEMORY * peaks[-3]
    return {
        **PATTERNS[pattern],
        "lengths": list(lengths),
        "seconds": seconds,
        "peak_mib": peaks,
        "time_ratios": time_ratios,
        "memory_ratios": memory_ratios,
        "holds": within or pattern == "dense",
        "measurements": [asdict(each) for each in measured],
    }


def summary(found: dict[str, Any]) -> list[str]:
    """Return a line a length."""
    times, memories = (["", *(f"x {ratio:.2f}" for ratio in found[key])] for key in ("time_ratios", "memory_ratios"))
    rows = zip(found["lengths"], found["seconds"], times, found["peak_mib"], memories, strict=True)
    lines = [
        f"{found['pattern']:<15}{length:>7}{seconds:>9.3f} s {faster:<7}{peak:>7.0f} MiB {more}".rstrip()
        for length, seconds, faster, peak, more in rows
    ]
    return [*lines, f"{found['pattern']}: {'holds' if found['holds'] else 'FAILS'}"]


if __name__ == "__main__":
    sys.exit(main())
