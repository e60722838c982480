"""``python -m benchmarks.zero.update``: processor time of an update by other rules beside AdamW's, on one thread."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from megalm.mesh import Axis
from megalm.optim.config import OptimizerConfig
from megalm.optim.optimizer import Optimizer
from megalm.optim.rule import UpdateRule
from megalm.parallel.data.bucket import make_bucket
from megalm.training.build import RULES

HIDDEN, LAYERS = 576, 8
MOST: Mapping[str, float] = {"lamb": 2.0, "adamw8bit": 8.0}
"""How many times AdamW's processor time a rule may take."""


def optimizer(rule: UpdateRule, hidden: int, layers: int) -> Optimizer:
    """Return an optimizer over the shapes of a GPT's layers: 12 hidden^2 elements each, norms and biases."""
    shapes: Sequence[tuple[int, ...]] = (
        *[(hidden, hidden)] * 4,
        (4 * hidden, hidden),
        (hidden, 4 * hidden),
        *[(hidden,)] * 9,
        (4 * hidden,),
    )
    buckets = [
        make_bucket([nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes], torch.device("cpu"), torch.float32)
        for _ in range(layers)
    ]
    for bucket in buckets:
        bucket.owned_gradients.normal_(std=1e-3)
    return Optimizer(rule, buckets, axes=[Axis.alone()], holders=[], positions={}, clip_grad_norm=0.0)


def processor_time(work: Callable[[], object]) -> float:
    """Return the seconds of processor time that ``work`` takes."""
    before = time.process_time()
    work()
    return time.process_time() - before


def main() -> int:
    """Measure all in turn, show the least of each; exit 1 if one takes more than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero.update", description=__doc__)
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--repeat", type=int, default=31)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = OptimizerConfig()
    sides = {name: optimizer(RULES[name](config), arguments.hidden, arguments.layers) for name in ("adamw", *MOST)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.repeat + 1):
        for name, side in sides.items():
            seconds[name].append(processor_time(partial(side.step, 1e-4)))
    least = {name: min(times[1:]) for name, times in seconds.items()}
    elements = sum(bucket.owned_values.numel() for bucket in sides["adamw"].buckets)
    print(f"{elements:,} elements: adamw {1e3 * least['adamw']:.1f} ms")
    holds = True
    for name, most in MOST.items():
        ratio = least[name] / least["adamw"]
        verdict = "holds" if ratio <= most else "FAILS"
        print(f"{name} {1e3 * least[name]:.1f} ms, {ratio:.2f} times (at most {most:g}): {verdict}")
        holds &= ratio <= most
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
