"""Oracle: the same run without offload, bit for bit, and what the planner says of each memory."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from megalm.errors import UserError
from megalm.mesh import Mesh
from megalm.models.decoder_shape import DecoderShape
from megalm.plan.data_exchange import Sharing
from megalm.plan.memory import ElementBytes, KeptBytes, buckets_of_rank, kept_bytes, offloaded_bytes
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.held_bytes import held_bytes, host_bytes
from megalm.training.loop import train
from megalm.training.resume import local_pieces, owned_pieces
from megalm.training.step import StepReport, train_step
from tests.models.live_storages import LiveStorages
from tests.pretend_host import pretended
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, LLAMA, NEOX, run_file, windows_of

CUT = {"sequence_parallel": True}
BOTH: dict[str, dict[str, Any]] = {"zero": {"offload": "cpu"}, "recompute": {"offload": "cpu"}}


@dataclass
class Seen:
    """What a rank has after some steps: reports, what a checkpoint would hold of it, and bytes."""

    reports: list[StepReport]
    pieces: dict[str, list[Tensor]]
    on_device: KeptBytes
    on_host: KeptBytes
    moved: list[int] = field(default_factory=list)


def run(config: RunConfig, mesh: Mesh, steps: int) -> tuple[TrainingState, list[StepReport]]:
    state = build_state(config, mesh)
    state.model.train()
    feed = Feed(config, mesh, windows_of(config), objective_of(config))
    return state, [train_step(state, feed.training_step(step)) for step in range(steps)]


def seen(context: RankContext, config: RunConfig, steps: int = 3) -> Seen:
    with pretended(smallest=64) as host:
        state, reports = run(config, Mesh.build(config.layout, timeout_s=30), steps)
    pieces = {name: [values.clone() for _, values in piece.parts] for name, piece in owned_pieces(state).items()}
    return Seen(reports, pieces, held_bytes(state), host_bytes(state), host.moved)


def both(ranks: RankPool, config: RunConfig, offload: dict[str, dict[str, Any]]) -> tuple[list[Seen], list[Seen]]:
    """Return what the ranks of a run see without offload and with it."""
    sections = {name: getattr(config, name).model_copy(update=fields) for name, fields in offload.items()}
    offloaded = config.model_copy(update=sections)
    return tuple(ranks.run(config.layout.world_size, seen, each) for each in (config, offloaded))  # type: ignore[return-value]


ALL = ["attention_core", "activation", "norm"]
CASES: list[tuple[str, str, str, dict[str, dict[str, Any]]]] = [
    # model, rule, precision, further sections
    (GPT2, "adamw", "fp32", {"layout": {"dp": 2}}),
    (NEOX, "adamw", "bf16", {"layout": {"dp": 2}, "zero": {"stage": 1}}),
    (LLAMA, "sgd", "fp32", {"layout": {"dp": 2}, "zero": {"stage": 2}}),
    (GPT2, "adamw", "fp16", {"layout": {"dp": 2}, "zero": {"stage": 3}}),
    (NEOX, "lamb", "fp32", {"layout": {"dp": 2}, "zero": {"stage": 3}}),
    (LLAMA, "lamb", "bf16", {"layout": {"dp": 2, "tp": 2}, "zero": {"stage": 2}}),
    (GPT2, "adamw8bit", "bf16", {"layout": {"dp": 2, "tp": 2}, "zero": {"stage": 2}}),
    (NEOX, "sgd", "bf16", {"layout": {"dp": 2, "pp": 2}, "zero": {"stage": 1}, "pipeline": {"schedule": "zb-h1"}}),
    (GPT2, "adamw", "fp32", {"layout": {"dp": 2, "pp": 2}, "zero": {"stage": 3}, "pipeline": {"schedule": "zb-v"}}),
    (LLAMA, "adamw", "fp32", {"layout": {"tp": 2}, "tensor": CUT, "recompute": {"mode": "full"}}),
    (GPT2, "adamw", "fp32", {"layout": {"dp": 2}, "zero": {"stage": 3}, "recompute": {"mode": "full", "every": 2}}),
    (LLAMA, "adamw", "bf16", {"recompute": {"mode": "selective", "operations": ALL}}),
    (NEOX, "sgd", "fp32", {"layout": {"pp": 2}, "pipeline": {"schedule": "interleaved"}}),
]


@pytest.mark.parametrize(("model", "rule", "precision", "sections"), CASES)
def test_offload_changes_nothing_to_the_bit(
    ranks: RankPool, model: str, rule: str, precision: str, sections: dict[str, dict[str, Any]]
) -> None:
    """Oracle: losses, norms, and all that a checkpoint holds of the run that offloads nothing."""
    config = run_file(
        model, train={"precision": precision, "micro_batch_size": 2}, optimizer={"name": rule}, **sections
    )
    here, there = both(ranks, config, BOTH)
    for one, other in zip(here, there, strict=True):
        assert other.reports == one.reports
        assert other.pieces.keys() == one.pieces.keys()
        for name, parts in one.pieces.items():
            assert all(torch.equal(*pair) for pair in zip(other.pieces[name], parts, strict=True)), name
        assert one.moved == [0, 0]
        assert min(other.moved) > 0


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("precision", "element"), [("fp32", ElementBytes(4, 4, 2)), ("bf16", ElementBytes(2, 4, 2))])
def test_each_memory_holds_what_is_planned(ranks: RankPool, precision: str, element: ElementBytes, stage: int) -> None:
    """Oracle: the closed form: nothing of the optimizer is on the device."""
    config = run_file(NEOX, layout={"dp": 2}, zero={"stage": stage}, train={"precision": precision})
    sizes = buckets_of_rank(DecoderShape.of(config.model), 1, config.shard_size, range(4))
    sharing = Sharing(2, config.zero_stage, config.shard_size)
    here, there = both(ranks, config, {"zero": {"offload": "cpu"}})
    for one, other in zip(here, there, strict=True):
        assert (one.on_device, one.on_host) == (kept_bytes(sum(sizes), sharing, element), KeptBytes(0, 0, 0))
        assert (other.on_device, other.on_host) == offloaded_bytes(sum(sizes), sharing, element)
        assert other.on_device.optimizer == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_counted_is_all_that_is_alive(precision: str) -> None:
    """Oracle: every storage that is alive after a step; those of the moments are counted on the host by their size."""
    config = run_file(NEOX, train={"precision": precision}, **BOTH)
    with pretended() as host, LiveStorages() as live:
        state, _ = run(config, Mesh.alone(), 1)
        alive = live.bytes_beside(*state.held.buffers())
    moments = sum(tensor.nbytes for kept in state.optimizer.state for tensor in kept.values())
    assert host.num_bytes + moments == host_bytes(state).total
    assert alive - host_bytes(state).total == held_bytes(state).total


def test_loaded_values_reach_the_device() -> None:
    """Oracle: the values that are loaded, in the dtype of the model."""
    config = run_file(GPT2, train={"precision": "bf16"}, **BOTH)
    with pretended():
        state = build_state(config, Mesh.alone())
    for name, piece in local_pieces(state, weights_only=True).items():
        for _, values in piece.parts:
            values.fill_(len(name) + 0.001)
    state.loaded()
    for bucket in state.buckets:
        for slot in bucket.slots:
            assert (slot.parameter == torch.tensor(len(slot.spec.name) + 0.001).bfloat16()).all()


def test_on_a_cpu_the_log_says_that_it_has_no_effect(tmp_path: Any) -> None:
    """Oracle: the log of a run, which offloads nothing."""
    config = run_file(
        GPT2,
        run={"dir": str(tmp_path), "device": "cpu"},
        train={"steps": 1, "eval_every": 0, "precision": "fp32"},
        checkpoint={"every": 0},
        **BOTH,
    )
    train(config)
    said = (tmp_path / "log.txt").read_text()
    for key in ("zero", "recompute"):
        assert f"{key}.offload=cpu has no effect: the run computes on a CPU" in said
    assert config.without_effect_on("cuda") == []
    assert run_file(GPT2).without_effect_on("cpu") == []


def test_a_model_without_layers_is_refused() -> None:
    """Oracle: the run file's words, read by hand."""
    config = run_file(GPT2, **BOTH)
    own = config.model.model_copy(update={"family": "tests.training.tiny:build"})
    with pytest.raises(UserError, match=r"recompute\.offload=cpu has no layers to offload: the model has no blocks"):
        build_state(config.model_copy(update={"model": own}), Mesh.alone())
