"""What is claimed of ZeRO, and which engines are measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.throughput.claims import Bound, Claim


@dataclass(frozen=True)
class Engine:
    """One engine at one stage.

    Args:
        backend: as ``zero.backend`` names it, or ``zero-redundancy`` for torch's ZeroRedundancyOptimizer.
        stage: of ZeRO.
    """

    backend: str
    stage: int


ENGINES: Mapping[str, Engine] = {
    **{f"native-{stage}": Engine("native", stage) for stage in range(4)},
    **{f"deepspeed-{stage}": Engine("deepspeed", stage) for stage in (1, 2, 3)},
    "fsdp2-3": Engine("fsdp2", 3),
    "zero-redundancy-1": Engine("zero-redundancy", 1),
}
"""By side."""


def _claim(name: str, ours: str, peer: str, ratio: float) -> Claim:
    return Claim(name, peer, dp=2, tp=1, threads=1, bounds=(Bound("tokens_per_s", ratio),), ours=ours)


CLAIMS = (
    _claim("stage1-deepspeed", "native-1", "deepspeed-1", 1.3),
    _claim("stage2-deepspeed", "native-2", "deepspeed-2", 1.3),
    _claim("stage3-deepspeed", "native-3", "deepspeed-3", 1.3),
    _claim("stage1-torch", "native-1", "zero-redundancy-1", 1.15),
    _claim("stage3-torch", "native-3", "fsdp2-3", 1.3),
    _claim("stage3-stage0", "native-3", "native-0", 0.85),
)
