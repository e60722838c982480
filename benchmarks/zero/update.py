"""``python -m benchmarks.zero.update``: processor time of one LAMB update beside AdamW's, on one thread."""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from megalm.mesh import Axis
from megalm.optim.adamw import AdamW
from megalm.optim.config import OptimizerConfig
from megalm.optim.lamb import Lamb
from megalm.optim.optimizer import Optimizer
from megalm.optim.rule import UpdateRule
from megalm.parallel.data.bucket import make_bucket

HIDDEN, LAYERS = 576, 8
MOST = 2.0
"""How much more processor time than AdamW's LAMB may take."""


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
    """Measure both in turn, show the least of each; exit 1 if LAMB takes more than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero.update", description=__doc__)
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--repeat", type=int, default=31)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = OptimizerConfig()
    adamw, lamb = (optimizer(rule, arguments.hidden, arguments.layers) for rule in (AdamW(config), Lamb(config)))
    seconds: list[tuple[float, float]] = []
    for _ in range(arguments.repeat + 1):
        seconds.append((processor_time(lambda: adamw.step(1e-4)), processor_time(lambda: lamb.step(1e-4))))
    plain, layerwise = (min(times) for times in zip(*seconds[1:], strict=True))
    ratio = layerwise / plain
    elements = sum(bucket.owned_values.numel() for bucket in adamw.buckets)
    print(
        f"{elements:,} elements: AdamW {1e3 * plain:.1f} ms, LAMB {1e3 * layerwise:.1f} ms, {ratio:.2f} times "
        f"(at most {MOST:g}): {'holds' if ratio <= MOST else 'FAILS'}"
    )
    return 0 if ratio <= MOST else 1


if __name__ == "__main__":
    raise SystemExit(main())
