"""Model FLOPs utilization: the share of the devices' peak that the model's own arithmetic keeps busy.

It is given for known devices only and always with its formula and its peak, since numbers by another formula or another
peak are not comparable. Recomputed activations do not count as work of the model.
Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, appendix B.
"""

import re
from dataclasses import dataclass

TERA = 10**12


@dataclass(frozen=True)
class Device:
    """The peak rates of one device, without sparsity.

    Args:
        pattern: matches the whole name that the driver gives. A variant whose rates differ (another form factor, a
            lower power limit, a slice of a device) must not match.
        bf16, fp16, fp8: in TFLOP/s on the tensor cores with fp32 sums; ``None`` where the device has none.
        fp32: in TFLOP/s outside the tensor cores, which torch does not use for fp32 unless told to.
        source: where the rates were read.
    """

    pattern: str
    bf16: float | None
    fp16: float | None
    fp8: float | None
    fp32: float
    source: str

    @property
    def rates(self) -> dict[str, float | None]:
        """The rates in TFLOP/s by ``train.precision``."""
        return {"bf16": self.bf16, "fp16": self.fp16, "fp8": self.fp8, "fp32": self.fp32}


DEVICES = (
    Device(r"(NVIDIA|Tesla) V100-SXM[23]-(16|32)GB", None, 125, None, 15.7, "NVIDIA V100 data sheet, SXM2"),
    Device(r"(NVIDIA|Tesla) V100-PCIE-(16|32)GB", None, 112, None, 14, "NVIDIA V100 data sheet, PCIe"),
    Device(r"NVIDIA A[18]00-SXM4-(40|80)GB", 312, 312, None, 19.5, "NVIDIA A100 data sheet"),
    Device(r"NVIDIA A[18]00(-PCIE-40GB| 80GB PCIe)", 312, 312, None, 19.5, "NVIDIA A100 data sheet"),
    Device(r"NVIDIA (H100 80GB HBM3|H800)", 989, 989, 1979, 67, "NVIDIA H100 data sheet, SXM, without sparsity"),
    Device(r"NVIDIA H[18]00 PCIe", 756, 756, 1513, 51, "NVIDIA H100 data sheet, PCIe, without sparsity"),
    Device(r"NVIDIA (H200|GH200 480GB)", 989, 989, 1979, 67, "NVIDIA H200 data sheet, SXM, without sparsity"),
    Device(r"NVIDIA B200", 2250, 2250, 4500, 75, "NVIDIA HGX B200 data sheet, without sparsity"),
    Device(r"NVIDIA B300( SXM6 AC)?", 2250, 2250, 4500, 75, "NVIDIA HGX B300 data sheet, without sparsity"),
    Device(r"NVIDIA GB200", 2500, 2500, 5000, 80, "NVIDIA GB200 NVL72 data sheet, without sparsity"),
    Device(r"NVIDIA GB300", 2500, 2500, 5000, 80, "NVIDIA GB300 NVL72 data sheet, without sparsity"),
)


@dataclass(frozen=True)
class Mfu:
    """The MFU of one run.

    Args:
        flops_per_token: of the model, forward and backward, without recomputation.
        device_count: how many devices share the work.
        device_name: as the driver gives it; anything unknown, a CPU too, has no MFU.
        precision: ``train.precision``; fp64 has no MFU.
        hardware_flops_per_token: of the model and of what is computed again; ``None`` when nothing is.
    """

    flops_per_token: float
    device_count: int
    device_name: str
    precision: str
    hardware_flops_per_token: float | None = None

    @property
    def peak_flops(self) -> float | None:
        """The peak of one device in FLOP/s, or ``None`` when it is not known."""
        rate = self._rate()
        return rate[0] if rate else None

    def at(self, tokens_per_s: float) -> float | None:
        """Return the share of the peak at the throughput of all devices together; ``None`` for an unknown device."""
        peak = self.peak_flops
        return None if peak is None else self.flops_per_token * tokens_per_s / (self.device_count * peak)

    def explanation(self) -> str:
        """Return one line: the formula with its numbers and the source of the peak, or why there is no MFU."""
        rate = self._rate()
        if rate is None:
            return f"MFU is not given: the {self.precision} peak of {self.device_name!r} is not known."
        peak, source = rate
        again = ""
        if self.hardware_flops_per_token is not None:
            again = f" With what is computed again the devices do {self.hardware_flops_per_token:.4g} FLOP a token."
        return (
            f"MFU = {self.flops_per_token:.4g} FLOP a token x tokens/s / "
            f"({self.device_count} x {peak / TERA:g} TFLOP/s): the model's forward and backward without recomputation "
            f"over the {self.precision} peak of {self.device_name} ({source}).{again}"
        )

    def _rate(self) -> tuple[float, str] | None:
        for device in DEVICES:
            if re.fullmatch(device.pattern, self.device_name):
                tera = device.rates.get(self.precision)
                return None if tera is None else (tera * TERA, device.source)
        return None
