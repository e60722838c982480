"""``python -m benchmarks.lowering``: measure every case, show and keep the numbers, exit 1 if a bound fails."""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.lowering.measure import CASES, Case, Measurement, measure
from benchmarks.machine import machine

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lowering", description=__doc__)
    default = ROOT / "benchmarks" / "results" / f"lowering-{datetime.now(UTC):%Y-%m-%d}.json"
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each case, each in a fresh process")
    parser.add_argument("--microbatches", type=int, help="of every case, for a trial")
    parser.add_argument("--output", type=Path, default=default, help="the results file")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(asdict(measure(Case(**arguments.case)))))
        return 0
    cases = [replace(case, num_microbatches=arguments.microbatches or case.num_microbatches) for case in CASES]
    results = []
    for case in cases:
        measured = [in_a_fresh_process(case) for _ in range(arguments.repeat)]
        results.append(result(case, measured))
        print(summary(case, results[-1]))
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.lowering {' '.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "cases": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"results: {arguments.output}")
    return 0 if all(case["holds"] for case in results) else 1


def in_a_fresh_process(case: Case) -> Measurement:
    """Measure a case where nothing else has used memory."""
    command = [sys.executable, "-m", "benchmarks.lowering", "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Measurement(**json.loads(done.stdout))


def result(case: Case, measured: list[Measurement]) -> dict[str, Any]:
    """Return what is kept of a case; the slowest and the largest of its measurements must be within the bounds."""
    seconds, peak_mib = max(each.seconds for each in measured), max(each.peak_mib for each in measured)
    return {
        **asdict(case),
        "num_actions": measured[0].num_actions,
        "slowest_seconds": seconds,
        "highest_peak_mib": peak_mib,
        "holds": seconds <= case.most_seconds and peak_mib <= case.most_mib,
        "measurements": [asdict(each) for each in measured],
    }


def summary(case: Case, found: dict[str, Any]) -> str:
    """Return one line about a case."""
    return (
        f"{case.name}: {found['num_actions']} actions, "
        f"{found['slowest_seconds']:.2f} s (at most {case.most_seconds:g}), "
        f"{found['highest_peak_mib']:.0f} MiB (at most {case.most_mib:g}): {'holds' if found['holds'] else 'FAILS'}"
    )


if __name__ == "__main__":
    sys.exit(main())
