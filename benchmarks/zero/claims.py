"""What is claimed of ZeRO, and which engines are measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.throughput.claims import Bound, Claim


@dataclass(frozen=True)
class Engine:
    """One engine at one stage.

    Args:
        name: as ``zero.backend`` has it, or ``zero-redundancy``, torch's ZeroRedundancyOptimizer.
        stage: of ZeRO.
        in_megalm: whether it trains megalm's model, by ``zero.backend``; else the plain one, as its own users do.
    """

    name: str
    stage: int
    in_megalm: bool = True


ENGINES: Mapping[str, Engine] = {
    **{f"native-{stage}": Engine("native", stage) for stage in range(4)},
    **{f"backend-deepspeed-{stage}": Engine("deepspeed", stage) for stage in (1, 2, 3)},
    "backend-fsdp2-3": Engine("fsdp2", 3),
    **{f"deepspeed-{stage}": Engine("deepspeed", stage, in_megalm=False) for stage in (1, 2, 3)},
    "fsdp2-3": Engine("fsdp2", 3, in_megalm=False),
    "zero-redundancy-1": Engine("zero-redundancy", 1, in_megalm=False),
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
    _claim("engine1-deepspeed", "native-1", "backend-deepspeed-1", 1.0),
    _claim("engine2-deepspeed", "native-2", "backend-deepspeed-2", 1.0),
    _claim("engine3-deepspeed", "native-3", "backend-deepspeed-3", 1.0),
    _claim("engine3-torch", "native-3", "backend-fsdp2-3", 1.0),
)
