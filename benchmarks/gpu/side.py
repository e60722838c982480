"""One measurement of one side in its own process: ``python -m benchmarks.gpu.side NAME``; JSON on the last line."""

import argparse
import json
import time

import torch

from benchmarks.gpu.sides import SIDES
from benchmarks.throughput.workload import Workload


def main() -> None:
    """Build the side, warm it up, clock it, print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--workload", type=json.loads, required=True, help="fields of Workload, as JSON")
    arguments = parser.parse_args()
    workload, side = Workload(**arguments.workload), SIDES[arguments.side]
    if side.plain:
        from benchmarks.gpu import plain

        step = plain.build_step(side, workload)
    else:
        from benchmarks.gpu import ours

        step = ours.build_step(side, workload)
    losses = [step(index) for index in range(workload.warmup_steps)]
    torch.cuda.synchronize()
    started = time.perf_counter()
    for index in range(workload.warmup_steps, workload.steps):
        step(index)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    seen = {
        "side": arguments.side,
        "tokens_per_s": workload.tokens_per_step * workload.timed_steps / seconds,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "first_loss": losses[0],
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
