"""``python -m benchmarks.gpu``: tokens a second, MFU and memory on one GPU, sides by turns; the numbers are kept."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.sides import SIDES
from benchmarks.throughput.megalm_side import run_config
from benchmarks.throughput.pairs import ROOT
from benchmarks.throughput.workload import Workload
from megalm.models.counts import training_flops_per_token
from megalm.models.decoder_shape import DecoderShape
from megalm.training.mfu import Mfu

WORKLOAD = Workload(
    num_layers=24,
    hidden_size=1024,
    num_heads=16,
    seq_length=1024,
    global_batch_size=16,
    warmup_steps=4,
    timed_steps=10,
    learning_rate=1e-4,
)
"""GPT-2 medium: 355 million parameters, 16,384 tokens a step."""


def measured(side: str, workload: Workload) -> Mapping[str, Any]:
    """Measure one side once.

    Raises:
        RuntimeError: its process failed.
    """
    command = [sys.executable, "-m", "benchmarks.gpu.side", side, "--workload", json.dumps(asdict(workload))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr}")
    seen: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def summary(workload: Workload, measurements: Sequence[Mapping[str, Any]], device_name: str) -> list[dict[str, Any]]:
    """Return the medians of each side, and what share of the device's peak in its precision they are."""
    shape = DecoderShape.of(run_config(workload, 1, 1, 1, workload.global_batch_size).model)
    flops = training_flops_per_token(shape, workload.seq_length)
    found = []
    for side in dict.fromkeys(each["side"] for each in measurements):
        own = [each for each in measurements if each["side"] == side]
        tokens_per_s = median(each["tokens_per_s"] for each in own)
        mfu = Mfu(flops, 1, device_name, SIDES[side].precision)
        gib = median(each["peak_bytes"] for each in own) / 2**30
        found.append({"side": side, "tokens_per_s": tokens_per_s, "mfu": mfu.at(tokens_per_s), "peak_gib": gib})
    return found


def main() -> int:
    """Measure, show and keep; exit 1 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    default = ROOT / "benchmarks" / "results" / f"gpu-{datetime.now(UTC):%Y-%m-%d}.json"
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each side, by turns")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="which to measure")
    parser.add_argument("--workload", type=json.loads, default={}, help="fields of Workload as JSON, for a trial")
    parser.add_argument("--output", type=Path, default=default, help="the results file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a GPU that this torch can use.", file=sys.stderr)
        return 1
    workload = Workload(**asdict(WORKLOAD) | arguments.workload)
    measurements: list[Mapping[str, Any]] = []
    for _ in range(arguments.pairs):
        for side in arguments.sides:
            measurements.append(measured(side, workload))
            print(json.dumps(measurements[-1]), file=sys.stderr, flush=True)
            keep(arguments.output, workload, measurements)
    for row in summary(workload, measurements, torch.cuda.get_device_name()):
        share = "unknown" if row["mfu"] is None else f"{row['mfu']:.1%}"
        print(f"{row['side']:18} {row['tokens_per_s']:10.0f} tokens/s  MFU {share:>7}  {row['peak_gib']:6.2f} GiB")
    return 0


def keep(output: Path, workload: Workload, measurements: Sequence[Mapping[str, Any]]) -> None:
    """Write all that was measured so far: a run that is cut off has not been for nothing."""
    name = torch.cuda.get_device_name()
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}".strip(),
        "machine": {"gpu": name, "torch": torch.__version__, "cuda": torch.version.cuda},
        "workload": {**asdict(workload), "num_parameters": workload.num_parameters},
        "sides": summary(workload, measurements, name),
        "measurements": measurements,
    }
    output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
