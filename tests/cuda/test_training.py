"""Oracle: the same run on the CPU; on the GPU only the order of sums differs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.parallel.tensor.product import HALVES, add_product_to, product_into
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.loop import train, train_on
from megalm.training.step import train_step
from tests.verify.runs import GPT2, LLAMA, NEOX, NEOX_TIED, run_file, windows_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def columns(config: RunConfig, device: str, steps: int = 4) -> list[float]:
    """Return loss and gradient norm of the first steps."""
    state = build_state(config, Mesh.build(config.layout, torch.device(device)))
    state.model.train()
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    reports = [train_step(state, feed.training_step(step)) for step in range(steps)]
    return [number for report in reports for number in (report.loss, report.grad_norm)]


@pytest.mark.parametrize(
    ("model", "sections"),
    [
        (GPT2, {}),
        (NEOX, {"train": {"micro_batch_size": 5}}),
        (LLAMA, {"optimizer": {"name": "lamb"}}),
        (GPT2, {"optimizer": {"name": "adamw8bit"}}),
        (NEOX_TIED, {"optimizer": {"name": "sgd"}, "recompute": {"mode": "full"}}),
        (LLAMA, {"recompute": {"mode": "selective", "operations": ["attention_core", "activation", "norm"]}}),
    ],
)
def test_a_gpu_gives_what_a_cpu_gives(model: str, sections: dict[str, Any]) -> None:
    """Oracle: the same run in float64 on the CPU."""
    config = run_file(model, **sections)
    assert columns(config, "cuda") == pytest.approx(columns(config, "cpu"), rel=1e-10, abs=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", [GPT2, LLAMA])
def test_16_bits_stay_within_their_rounding(model: str, precision: str) -> None:
    """Oracle: the same 50 steps in float32 on the CPU."""
    settings = {"micro_batch_size": 6, "steps": 50}
    narrow = run_file(model, train={**settings, "precision": precision}, optimizer={"lr": 2e-3})
    wide = run_file(model, train={**settings, "precision": "fp32"}, optimizer={"lr": 2e-3})
    eps = torch.finfo({"bf16": torch.bfloat16, "fp16": torch.float16}[precision]).eps
    losses, expected = columns(narrow, "cuda", 50)[::2], columns(wide, "cpu", 50)[::2]
    assert losses == pytest.approx(expected, rel=2 * eps, abs=0)
    assert expected[0] - expected[-1] > 40 * torch.finfo(torch.float16).eps


@pytest.mark.parametrize("dtype", HALVES)
def test_sums_of_16_bit_products_are_not_rounded_in_between(dtype: torch.dtype) -> None:
    """Oracle: float64 products of the same operands."""
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(shape, generator=generator).to(dtype).cuda() for shape in ((8, 304), (304, 16)))
    exact = a.double() @ b.double()
    total = torch.full((8, 16), 1000.0, device="cuda")
    add_product_to(total, a, b)
    torch.testing.assert_close(total.double(), 1000 + exact, rtol=1e-6, atol=0)
    made = product_into(torch.full_like(total, torch.nan), a, b, 0.5)
    torch.testing.assert_close(made.double(), 0.5 * exact, rtol=1e-5, atol=1e-5)


def losses_of(run_dir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def run_of(run_dir: Path, device: str, **train_settings: Any) -> RunConfig:
    return run_file(
        GPT2,
        run={"dir": str(run_dir), "device": device},
        train={"steps": 6, "eval_every": 0, **train_settings},
        checkpoint={"every": 3},
    )


def test_a_run_saved_on_a_gpu_goes_on_on_a_cpu(tmp_path: Path) -> None:
    """Oracle: the undisturbed run on the CPU."""
    alone = run_of(tmp_path / "alone", "cpu")
    train_on(alone, Mesh.alone(ledger=Ledger()), "alone")
    assert train(run_of(tmp_path / "both", "cuda", stop_after=3)) == 0
    assert train(run_of(tmp_path / "both", "cpu")) == 0
    assert losses_of(tmp_path / "both") == pytest.approx(losses_of(tmp_path / "alone"), rel=1e-10, abs=0)
    assert len(losses_of(tmp_path / "both")) == 6


def test_memory_and_mfu_are_those_of_the_gpu(tmp_path: Path) -> None:
    """Oracle: torch's own count of the memory."""
    torch.cuda.reset_peak_memory_stats()
    assert train(run_of(tmp_path / "run", "cuda", precision="bf16")) == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["memory_gib"] == pytest.approx(torch.cuda.max_memory_allocated() / 2**30, rel=0.01)
    assert "device: cuda" in (tmp_path / "run" / "log.txt").read_text()
