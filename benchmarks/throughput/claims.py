"""What is claimed, and how readings become a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from benchmarks.throughput.measure import RankReading
from benchmarks.throughput.workload import Workload

Quantity = Literal["tokens_per_s", "tokens_per_cpu_s", "peak_mib"]


@dataclass(frozen=True)
class Bound:
    """A bound on one side's median over the peer's.

    Args:
        quantity: which number is compared.
        ratio: the bound.
        at_most: whether smaller is better.
    """

    quantity: Quantity
    ratio: float
    at_most: bool = False

    def holds(self, ratio: float) -> bool:
        """Whether a measured ratio keeps the bound."""
        return ratio <= self.ratio if self.at_most else ratio >= self.ratio


@dataclass(frozen=True)
class Claim:
    """One side beside its peer on one layout.

    Args:
        name: on the command line and in the table.
        peer: the side it is compared with.
        dp: data-parallel ranks.
        tp: tensor-parallel ranks.
        threads: of each rank.
        bounds: all must hold.
        pp: ranks of the pipeline.
        micro_batch_size: sequences of a micro-batch; ``None`` for the whole local batch.
        ours: the side whose medians stand over the peer's.
    """

    name: str
    peer: str
    dp: int
    tp: int
    threads: int
    bounds: tuple[Bound, ...]
    pp: int = 1
    micro_batch_size: int | None = None
    ours: str = "megalm"

    @property
    def num_ranks(self) -> int:
        """Processes of one measurement."""
        return self.dp * self.tp * self.pp

    def micro_batch(self, workload: Workload) -> int:
        """Return the sequences of a micro-batch."""
        return self.micro_batch_size or workload.global_batch_size // self.dp


_BEATS_PLAIN = (Bound("tokens_per_cpu_s", 1.25), Bound("peak_mib", 0.65, at_most=True))
_FASTER = (Bound("tokens_per_s", 1.1),)
CLAIMS = (
    Claim("one-process", "plain", dp=1, tp=1, threads=2, bounds=_BEATS_PLAIN),
    Claim("dp2", "plain", dp=2, tp=1, threads=1, bounds=_BEATS_PLAIN),
    Claim("tp2", "megatron-core", dp=1, tp=2, threads=1, bounds=(Bound("tokens_per_s", 0.97),)),
    Claim("pp2-torch", "torch-pipelining", dp=1, tp=1, threads=1, bounds=_FASTER, pp=2, micro_batch_size=2),
    Claim("pp2-megatron", "megatron-core", dp=1, tp=1, threads=1, bounds=_FASTER, pp=2, micro_batch_size=2),
)


@dataclass(frozen=True)
class Measurement:
    """One side, measured once.

    Args:
        side: megalm or a peer.
        tokens_per_s: over the timed steps, by the slowest rank's clock.
        tokens_per_cpu_s: the same tokens over the user and system seconds of all ranks.
        peak_mib: highest resident memory of any rank.
        first_loss: before any update.
        num_parameters: of the whole model.
    """

    side: str
    tokens_per_s: float
    tokens_per_cpu_s: float
    peak_mib: float
    first_loss: float
    num_parameters: int


def measurement(side: str, readings: Sequence[RankReading], workload: Workload) -> Measurement:
    """Return what the ranks' readings say together."""
    tokens = workload.tokens_per_step * workload.timed_steps
    return Measurement(
        side,
        tokens_per_s=tokens / max(reading.wall_s for reading in readings),
        tokens_per_cpu_s=tokens / sum(reading.cpu_s for reading in readings),
        peak_mib=max(reading.peak_bytes for reading in readings) / 2**20,
        first_loss=readings[0].losses[0],
        num_parameters=readings[0].num_parameters,
    )


def medians(measurements: Sequence[Measurement], side: str) -> dict[Quantity, float]:
    """Return each quantity's median over the measurements of one side."""
    own = [measured for measured in measurements if measured.side == side]
    return {
        "tokens_per_s": median(measured.tokens_per_s for measured in own),
        "tokens_per_cpu_s": median(measured.tokens_per_cpu_s for measured in own),
        "peak_mib": median(measured.peak_mib for measured in own),
    }


def ratios(measurements: Sequence[Measurement], peer: str, ours: str = "megalm") -> dict[Quantity, float]:
    """Return the medians of one side over the peer's."""
    mine, theirs = medians(measurements, ours), medians(measurements, peer)
    return {quantity: mine[quantity] / theirs[quantity] for quantity in mine}
