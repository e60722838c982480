"""``python -m benchmarks.bubble``: measure every case, show and keep the numbers, exit 1 if a claim fails."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.bubble.cases import CASES, Case, Measured, verdicts
from benchmarks.throughput.report import machine
from megalm.launcher.local import launch
from megalm.training.timeline import read_timeline

RESULTS = Path(__file__).resolve().parents[1] / "results"


def measure(case: Case, seconds: float, steps: int) -> float:
    """Return the bubble of the median step of real ranks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps({"case": asdict(case), "seconds": seconds, "steps": steps}))
        outcome = launch([sys.executable, "-m", "benchmarks.bubble.rank", name], case.num_ranks)
        if outcome.code:
            raise RuntimeError(outcome.message)
        timeline = read_timeline([folder / f"rank-{rank}.jsonl" for rank in range(case.num_ranks)])
        assert timeline is not None
        return float(timeline.measured.bubble)


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bubble", description=__doc__)
    default = RESULTS / f"bubble-{datetime.now(UTC):%Y-%m-%d}.json"
    parser.add_argument("--seconds", type=float, default=0.03, help="of a forward, an input half, a weight half")
    parser.add_argument("--steps", type=int, default=7, help="of each case; the first two are left out")
    parser.add_argument("--repeats", type=int, default=3, help="starts of each case; their median counts")
    parser.add_argument("--output", type=Path, default=default, help="the results file")
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    measured: list[Measured] = []
    shown = Table(title=f"bubble, F = I = W = {arguments.seconds * 1000:g} ms")
    for column in ("schedule", "p", "m", "v", "measured", "clock", "difference"):
        shown.add_column(column, justify="right")
    for case in CASES:
        seen = [measure(case, arguments.seconds, arguments.steps) for _ in range(arguments.repeats)]
        measured.append(Measured(case, seen, median(seen)))
        bubble, predicted = measured[-1].bubble, float(case.predicted())
        values = (case.schedule, case.num_ranks, case.num_microbatches, case.stages_per_rank)
        shown.add_row(*map(str, values), f"{bubble:.3f}", f"{predicted:.3f}", f"{bubble - predicted:+.3f}")
    claims = verdicts(measured)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.bubble {' '.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "seconds": arguments.seconds,
        "cases": [{**asdict(each), "predicted": float(each.case.predicted())} for each in measured],
        "claims": [asdict(claim) for claim in claims],
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    Console().print(shown)
    for claim in claims:
        print(f"{'holds' if claim.holds else 'FAILS'}  {claim.claim}: {claim.measured:.3f}")
    print(f"results: {arguments.output}")
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
