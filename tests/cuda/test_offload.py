"""Oracle: the same run on one GPU that offloads nothing, and the closed forms of what moves."""

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from megalm.mesh import Mesh
from megalm.models.activations import MicroBatchSize, kept_by_block
from megalm.models.decoder_shape import DecoderShape
from megalm.plan.buckets import bucket_elements
from megalm.plan.data_exchange import Sharing
from megalm.plan.memory import ElementBytes, kept_bytes, offloaded_bytes
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.held_bytes import held_bytes, host_bytes
from megalm.training.loop import train
from megalm.training.step import StepReport, train_step
from tests.verify.runs import GPT2_UNTIED, run_file, windows_of

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.usefixtures("deterministic"),
]

LAYERS, SAMPLES, SEQUENCE = 8, 4, 1024
MODEL = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": SEQUENCE,
}
OFFLOAD = {"offload": "cpu"}


def config_of(precision: str, /, micro_batches: int = 1, steps: int = 3, **sections: Any) -> RunConfig:
    train = {
        "precision": precision,
        "global_batch_size": SAMPLES * micro_batches,
        "micro_batch_size": SAMPLES,
        "seq_length": SEQUENCE,
        "steps": steps,
        "eval_every": 0,
    }
    optimizer = {"lr": 1e-3, **sections.pop("optimizer", {})}
    return run_file(GPT2_UNTIED, model=MODEL, train=train, optimizer=optimizer, **sections)


@dataclass
class Seen:
    """What a run did, and the most memory of the device that it took once it was built."""

    reports: list[StepReport]
    peak: int


def seen(config: RunConfig) -> Seen:
    gc.collect()  # a state that a test has left behind is a circle of references
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    state = build_state(config, Mesh.alone("cuda"))
    state.model.train()
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    torch.cuda.reset_peak_memory_stats()
    reports = [train_step(state, feed.training_step(step)) for step in range(config.train.steps)]
    return Seen(reports, torch.cuda.max_memory_allocated() - before)


MODES: list[dict[str, Any]] = [
    {"mode": "none"},
    {"mode": "selective", "operations": ["attention_core", "activation", "norm"]},
    {"mode": "full"},
]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("recompute", MODES, ids=lambda section: section["mode"])
def test_offloaded_activations_change_nothing_but_the_peak(precision: str, recompute: dict[str, Any]) -> None:
    """Oracle: the run that offloads nothing, bit for bit; all layers' bytes but those of two or three move away."""
    config = config_of(precision, recompute=recompute)
    here, there = seen(config), seen(config_of(precision, recompute={**recompute, **OFFLOAD}))
    assert there.reports == here.reports
    size = MicroBatchSize(SAMPLES, SEQUENCE, 2 if precision == "bf16" else 4)
    offloaded = config.recompute.model_copy(update=OFFLOAD)
    (layer,) = {block.on_host for block in kept_by_block(DecoderShape.of(config.model), size, offloaded)[1:-1]}
    fell = here.peak - there.peak
    print(f"{precision} {recompute['mode']}: {here.peak / 2**20:.0f} MiB, offloaded {there.peak / 2**20:.0f} MiB")
    assert (LAYERS - 3) * layer < fell < LAYERS * layer


@pytest.mark.parametrize("schedule", ["1f1b", "zb-v"])
def test_many_micro_batches_in_flight_change_nothing(schedule: str) -> None:
    """Oracle: the run that offloads nothing, bit for bit."""
    sections: dict[str, Any] = {"pipeline": {"schedule": schedule}}
    here = seen(config_of("bf16", 6, **sections))
    there = seen(config_of("bf16", 6, **sections, recompute=OFFLOAD, zero={"offload": "none"}))
    assert there.reports == here.reports


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-3)])
@pytest.mark.parametrize("rule", ["adamw", "lamb", "sgd"])
def test_an_offloaded_optimizer_changes_nothing_but_rounding_and_the_peak(
    rule: str, precision: str, tolerance: float
) -> None:
    """Oracle: the run that updates on the device; before the first update to the bit, then as another kernel rounds.

    The peak falls by the optimizer's bytes: without offload they are on the device all the time.
    """
    config = config_of(precision, optimizer={"name": rule})
    here, there = seen(config), seen(config_of(precision, optimizer={"name": rule}, zero=OFFLOAD))
    first, expected = there.reports[0], here.reports[0]
    assert (first.loss, first.grad_norm) == (expected.loss, expected.grad_norm)
    for one, other in zip(there.reports, here.reports, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=tolerance)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=100 * tolerance)
    elements = sum(bucket_elements(DecoderShape.of(config.model), 1, 1))
    element = ElementBytes(2 if precision == "bf16" else 4, 4, 1 if rule == "sgd" else 2)
    moved = kept_bytes(elements, Sharing(1, 0, 1), element).optimizer
    print(f"{rule} {precision}: {here.peak / 2**20:.0f} MiB, offloaded {there.peak / 2**20:.0f} MiB")
    assert here.peak - there.peak == pytest.approx(moved, rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_memory_holds_what_is_planned(precision: str) -> None:
    """Oracle: the closed form, and where torch says that the tensors are."""
    config = config_of(precision, zero=OFFLOAD)
    state = build_state(config, Mesh.alone("cuda"))
    elements = sum(bucket_elements(DecoderShape.of(config.model), 1, 1))
    element = ElementBytes(2 if precision == "bf16" else 4, 4, 2)
    assert (held_bytes(state), host_bytes(state)) == offloaded_bytes(elements, Sharing(1, 0, 1), element)
    for bucket, updated in zip(state.buckets, state.optimizer.updated, strict=True):
        assert bucket.owned_gradients.is_cuda
        assert bucket.shard.is_cuda
        assert bucket.owned_values.is_pinned()
        assert updated.owned_gradients.is_pinned()
    assert all(tensor.is_cpu for kept in state.optimizer.state for tensor in kept.values())


def losses(config: RunConfig) -> list[float]:
    train(config)
    rows = (Path(config.run.dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


def test_a_run_that_offloads_all_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Oracle: the losses of the run that was not interrupted; a run that offloads nothing goes on from it, too."""
    sections: dict[str, Any] = {"zero": OFFLOAD, "recompute": OFFLOAD, "checkpoint": {"every": 2}}
    whole = losses(config_of("bf16", 2, 4, run={"dir": str(tmp_path / "whole"), "device": "cuda"}, **sections))
    run = {"dir": str(tmp_path / "cut"), "device": "cuda"}
    config = config_of("bf16", 2, 4, run=run, **sections)
    cut = config.model_copy(update={"train": config.train.model_copy(update={"stop_after": 2})})
    assert losses(cut) == whole[:2]
    assert losses(config) == whole
    assert "no effect" not in (tmp_path / "cut" / "log.txt").read_text()
    held = {"dir": str(tmp_path / "held"), "device": "cuda"}
    start = {"resume": str(tmp_path / "whole" / "checkpoints" / "step-00000002")}
    resumed = losses(config_of("bf16", 2, 4, run=held, checkpoint=start))
    assert resumed == pytest.approx(whole[2:], rel=2e-3)
