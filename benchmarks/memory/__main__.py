"""``python -m benchmarks.memory``: a model of 6 GiB on four ranks that have 2.2 GiB each; exit 1 if a bound fails.

With parameters, gradients and both moments in float32 the model takes 6 GiB on one process. Four data-parallel ranks
train it at ZeRO stage 3 with full recomputation, save it and go on from what they saved. The peak is each rank's own,
with torch itself (about 0.3 GiB) and the build among it.
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.memory.watch import peaks
from megalm import run_file as files
from megalm.models.counts import num_parameters
from megalm.models.decoder_shape import DecoderShape
from megalm.run_config import RunConfig
from megalm.validation import validate

GIB = 2**30
ROOT = Path(__file__).resolve().parents[2]
MODEL = {
    "family": "gpt2",
    "num_hidden_layers": 126,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "vocab_size": 8192,
    "max_position_embeddings": 256,
}
MOST = {False: 2.2, True: 3.4}
"""GiB of a rank, when the checkpoint is written while training waits, and behind it."""


def run_file(asynchronous: bool, steps: int, folder: Path) -> dict[str, Any]:
    """Return the run: two steps, saved after each."""
    return {
        "run": {"dir": str(folder / "run"), "device": "cpu"},
        "model": MODEL,
        "layout": {"dp": 4},
        "zero": {"stage": 3},
        "recompute": {"mode": "full"},
        "data": {"train": [{"path": "benchmarks.memory.source:random_windows"}]},
        "train": {"steps": steps, "global_batch_size": 4, "micro_batch_size": 1, "seq_length": 256, "eval_every": 0},
        "checkpoint": {"every": 1, "keep": 1, "async": asynchronous},
    }


def measure(asynchronous: bool) -> dict[str, Any]:
    """Train two steps, and one more from the checkpoint; return the peaks of both runs."""
    found: dict[str, Any] = {"asynchronous": asynchronous, "most_gib": MOST[asynchronous]}
    with tempfile.TemporaryDirectory(prefix="megalm-memory-") as name:
        folder = Path(name)
        for what, steps in (("trained and saved", 2), ("loaded, trained and saved", 3)):
            path = folder / "run.yaml"
            path.write_text(files.write(run_file(asynchronous, steps, folder)))
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            found[what] = [peak / GIB for peak in peaks([sys.executable, "-m", "megalm", "train", str(path)], env)]
            told = ", ".join(f"{peak:.2f}" for peak in found[what])
            print(f"{what}, {'behind training' if asynchronous else 'while training waits'}: {told} GiB", flush=True)
        found["holds"] = max(found["trained and saved"] + found["loaded, trained and saved"]) <= MOST[asynchronous]
    return found


def main() -> int:
    """Measure both ways of saving, keep the numbers, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    now = datetime.now(UTC)
    kept = ROOT / "benchmarks" / "results" / f"memory-{now:%Y-%m-%d}.json"
    parser.add_argument("--output", type=Path, default=kept, help="the results file")
    arguments = parser.parse_args()
    config = validate(RunConfig, run_file(False, 1, Path("unused")))
    size = 16 * num_parameters(DecoderShape.of(config.model))
    print(f"parameters, gradients and moments of one process: {size / GIB:.2f} GiB")
    found = [measure(asynchronous) for asynchronous in (False, True)]
    result = {"date": now.isoformat(timespec="seconds"), "command": "python -m benchmarks.memory", "model": MODEL}
    arguments.output.write_text(json.dumps(result | {"bytes_of_one_process": size, "found": found}, indent=1) + "\n")
    print(f"results: {arguments.output}")
    return 0 if all(each["holds"] for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
