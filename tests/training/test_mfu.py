"""Oracle: the formula by hand on published peaks, and names that drivers give."""

import pytest

from megalm.training.mfu import DEVICES, Mfu


def test_the_formula_by_hand() -> None:
    mfu = Mfu(flops_per_token=6e9, device_count=8, device_name="NVIDIA H100 80GB HBM3", precision="bf16")
    assert mfu.at(tokens_per_s=500_000) == pytest.approx(6e9 * 5e5 / (8 * 989e12))
    assert mfu.explanation() == (
        "MFU = 6e+09 FLOP a token x tokens/s / (8 x 989 TFLOP/s): the model's forward and backward without "
        "recomputation over the bf16 peak of NVIDIA H100 80GB HBM3 (NVIDIA H100 data sheet, SXM, without sparsity)."
    )


def test_8_bits_are_measured_by_the_peak_of_8_bits() -> None:
    mfu = Mfu(6e9, 8, "NVIDIA H100 80GB HBM3", "fp8")
    assert mfu.at(tokens_per_s=500_000) == pytest.approx(6e9 * 5e5 / (8 * 1979e12))
    assert "(8 x 1979 TFLOP/s)" in mfu.explanation()
    assert "over the fp8 peak of NVIDIA H100 80GB HBM3" in mfu.explanation()


def test_what_is_computed_again_is_no_work_of_the_model() -> None:
    kept, again = (Mfu(6e9, 8, "NVIDIA H100 80GB HBM3", "bf16", done) for done in (None, 7.5e9))
    assert again.at(500_000) == kept.at(500_000)
    assert again.explanation() == kept.explanation() + (
        " With what is computed again the devices do 7.5e+09 FLOP a token."
    )


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("Tesla V100-SXM2-32GB", None),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A800-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H800", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA GB300", 2500),
    ],
)
def test_the_bf16_peak_by_the_name_of_the_device(name: str, tera: float | None) -> None:
    peak = Mfu(1.0, 1, name, "bf16").peak_flops
    assert peak == (None if tera is None else tera * 1e12)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("cpu", "fp32"),
        ("NVIDIA H100", "bf16"),  # a variant of lower power has this name
        ("NVIDIA H200 NVL", "bf16"),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "bf16"),
        ("NVIDIA A100-SXM4-80GB", "fp8"),
        ("NVIDIA H100 80GB HBM3", "fp64"),
    ],
)
def test_what_is_not_known_has_no_mfu(name: str, precision: str) -> None:
    mfu = Mfu(6e9, 8, name, precision)
    assert mfu.at(500_000) is None
    assert mfu.explanation() == f"MFU is not given: the {precision} peak of {name!r} is not known."


def test_no_peak_counts_sparsity() -> None:
    for device in DEVICES:
        tensor_peaks = [peak for peak in (device.bf16, device.fp16) if peak is not None]
        assert max(tensor_peaks) <= 2500
        if device.fp8 is not None:
            assert device.fp8 == pytest.approx(2 * tensor_peaks[0], rel=2e-3)
