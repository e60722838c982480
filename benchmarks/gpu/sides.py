"""The sides that are measured: what each one trains with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Side:
    """One way to train the workload on one GPU.

    Args:
        precision: ``train.precision``; bf16 in plain PyTorch is autocast over fp32 parameters.
        plain: whether it is plain PyTorch.
        compiled: whether torch.compile makes its kernels (plain only).
        settings: further sections of the run file (megalm only).
    """

    precision: str
    plain: bool = False
    compiled: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SIDES: Mapping[str, Side] = {
    "megalm": Side("bf16"),
    "plain": Side("bf16", plain=True),
    "plain-compiled": Side("bf16", plain=True, compiled=True),
    "megalm-fp8": Side("fp8"),
    "megalm-recompute": Side("bf16", settings={"recompute": {"mode": "full"}}),
    "megalm-offload": Side("bf16", settings={"recompute": {"offload": "cpu"}, "zero": {"offload": "cpu"}}),
}
"""By name."""
