"""Oracle: arithmetic by hand."""

from typing import Any

import pytest

from benchmarks.gpu.__main__ import WORKLOAD, summary


def seen(side: str, tokens_per_s: float, gib: float) -> dict[str, Any]:
    return {"side": side, "tokens_per_s": tokens_per_s, "peak_bytes": gib * 2**30, "first_loss": 10.8}


def test_each_side_has_its_medians_and_its_share_of_the_peak() -> None:
    """Oracle: 6 FLOP a matrix parameter, and 12 x layers x hidden x tokens for attention."""
    rows = [seen("megalm", 100_000, 10), seen("plain", 50_000, 20), seen("megalm", 300_000, 11)]
    ours, plain = summary(WORKLOAD, [*rows, seen("megalm", 200_000, 30)], "NVIDIA H200")
    layers, hidden = WORKLOAD.num_layers, WORKLOAD.hidden_size
    products = 6 * (12 * layers * hidden * hidden + WORKLOAD.vocab_size * hidden)
    flops = products + 12 * layers * hidden * WORKLOAD.seq_length
    assert (ours["side"], ours["tokens_per_s"], ours["peak_gib"]) == ("megalm", 200_000, 11)
    assert ours["mfu"] == pytest.approx(flops * 200_000 / 989e12, rel=1e-12)
    assert plain["mfu"] == pytest.approx(flops * 50_000 / 989e12, rel=1e-12)
    assert summary(WORKLOAD, rows, "NVIDIA H200 MIG")[0]["mfu"] is None
