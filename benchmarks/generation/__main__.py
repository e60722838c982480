"""``python -m benchmarks.generation``: measure both sides by turns, show and keep it, exit 1 if a bound fails."""

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.generation.measure import Case, Shape, Side, megalm_side, tokens_per_s, transformers_side
from benchmarks.machine import machine

ROOT = Path(__file__).parents[2]
LEAST_RATIO = 0.8
CASES = (Case(batch_size=1), Case(batch_size=8))


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    default = ROOT / "benchmarks" / "results" / f"generation-{datetime.now(UTC):%Y-%m-%d}.json"
    parser.add_argument("--pairs", type=int, default=5, help="measurements of each side, by turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both sides")
    parser.add_argument("--shape", type=json.loads, default={}, help="fields of Shape as JSON, for a trial")
    parser.add_argument("--output", type=Path, default=default, help="the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = Shape(**arguments.shape)
    sides = {"megalm": megalm_side(shape), "transformers": transformers_side(shape)}
    cases = [measured(case, shape, sides, arguments.pairs) for case in CASES]
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.generation {' '.join(sys.argv[1:])}".strip(),
        "machine": {**machine(), "torch": torch.__version__, "transformers": version("transformers")},
        "threads": arguments.threads,
        "load_average": os.getloadavg(),
        "shape": vars(shape),
        "cases": cases,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"results: {arguments.output}")
    return 0 if all(case["holds"] for case in cases) else 1


def measured(case: Case, shape: Shape, sides: dict[str, Side], num_pairs: int) -> dict[str, Any]:
    """Measure both sides by turns, after one turn of each that is not counted, and say what came of it."""
    readings: dict[str, list[float]] = {name: [] for name in sides}
    for pair in range(num_pairs + 1):
        for name in sides if pair % 2 else reversed(sides):
            speed = tokens_per_s(sides[name], case, shape)
            if pair:
                readings[name].append(speed)
    ratio = median(readings["megalm"]) / median(readings["transformers"])
    told = ", ".join(f"{name} {median(speeds):.1f} tokens/s" for name, speeds in readings.items())
    print(f"batch of {case.batch_size}: {told}, ratio {ratio:.2f} (at least {LEAST_RATIO})", flush=True)
    return {**vars(case), "tokens_per_s": readings, "ratio": ratio, "holds": ratio >= LEAST_RATIO}


if __name__ == "__main__":
    sys.exit(main())
