"""What torch counts of a model's products: the FLOPs that closed forms are judged by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from megalm.batch import MicroBatch
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.validation import validate

MODES: list[dict[str, Any]] = [
    {"mode": "none"},
    {"mode": "selective"},
    {"mode": "selective", "operations": ["activation", "norm"]},
    {"mode": "full"},
    {"mode": "full", "every": 2},
]
"""Of what is computed again."""


def run_of(
    model: Mapping[str, Any], recompute: Mapping[str, Any], objective: Mapping[str, Any], seq_length: int = 13
) -> RunConfig:
    """Return a run that is counted and never trained."""
    tree = {
        "model": model,
        "objective": objective,
        "data": {"train": [{"path": "not read"}]},
        "train": {"seq_length": seq_length},
        "recompute": recompute,
    }
    return validate(RunConfig, tree)


@dataclass(frozen=True)
class Counted:
    """FLOPs of the forward pass, and of forward and backward."""

    forward: int
    whole: int


def addmm_flops(into: list[int], left: list[int], right: list[int], **_: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def counter() -> FlopCounterMode:
    """Return a counter that knows the in-place addmm_, for which torch 2.13 has no formula."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops})


def counted(config: RunConfig, batch: MicroBatch) -> Counted:
    """Run one micro-batch through the whole model of a run.

    The CPU's fused attention would count 0, so attention takes the math backend: two batched products over the whole
    square, without the causal half, which is what the closed forms say.
    """
    state = build_state(config, Mesh.alone())
    (stage,) = state.engine.stages.values()
    counts = counter()
    with sdpa_kernel(SDPBackend.MATH), counts:
        stage.forward(0, None, batch)
        forward = counts.get_total_flops()
        stage.backward(0)
    return Counted(forward, counts.get_total_flops())
