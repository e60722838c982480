"""Oracle: what real ranks hold in a step, storage by storage; the plan, made of integers only, must say the same."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.parallel.data.memory import GradientMemory
from megalm.parallel.pipeline import offload
from megalm.parallel.pipeline import stage as stages
from megalm.plan.rank_memory import QUANTITIES
from megalm.run_config import RunConfig
from megalm.training.build import build, build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.loop import train_on
from megalm.training.memory_report import MemoryReport
from megalm.training.memory_table import Row, surprises
from megalm.training.step import train_step
from tests.models.test_activations import WITHOUT_DROPOUT
from tests.pretend_host import pretended
from tests.ranks import RankContext, RankPool
from tests.training.tiny import Tiny
from tests.verify.runs import GPT2, GPT2_UNTIED, LLAMA, LLAMA_TIED, NEOX, NEOX_TIED, run_file, windows_of

Section = dict[str, Any]


def config_of(model: str, /, **sections: Any) -> RunConfig:
    own = {**WITHOUT_DROPOUT[model], **sections.pop("model", {})}
    train = {"precision": "fp32", "micro_batch_size": 3, "global_batch_size": 12, **sections.pop("train", {})}
    return run_file(model, model=own, train=train, **sections)


def rows_of(context: RankContext, config: RunConfig, fault: str | None = None) -> list[Row]:
    with FAULTS[fault]():
        state = build(config, Mesh.build(config.layout, timeout_s=30))
        feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
        report = MemoryReport(config, state)
        with report.first_step():
            train_step(state, feed.training_step(0))
        return report.rows()


@contextmanager
def sound() -> Iterator[None]:
    yield


@contextmanager
def gradients_stay() -> Iterator[None]:
    """From stage 2 on the last pipeline rank does not let go of the gradients that it has handed over."""

    def hand_over(self: GradientMemory) -> Tensor:
        tensor = self.tensor
        if torch.distributed.get_rank() != 1 and not self._kept:
            self._tensor = None
        return tensor

    with mock.patch.object(GradientMemory, "hand_over", hand_over):
        yield


@contextmanager
def activations_stay() -> Iterator[None]:
    """A block's graph outlives its backward."""
    original, left = stages._backward, []

    def backward(kept: Any, gradients: Any) -> Any:
        left.append(kept.graph())
        with mock.patch.object(torch.autograd, "backward", _retaining(torch.autograd.backward)):
            return original(kept, gradients)

    with mock.patch.object(stages, "_backward", backward):
        yield


def _retaining(backward: Callable[..., None]) -> Callable[..., None]:
    return lambda edges, given: backward(edges, given, retain_graph=True)


def nothing_given_back() -> AbstractContextManager[Any]:
    """What has left for the host stays on the device."""
    return mock.patch.object(offload._Storage, "give_back", return_value=None)


FAULTS = {
    None: sound,
    "gradients stay": gradients_stay,
    "activations stay": activations_stay,
    "nothing given back": nothing_given_back,
}

CUT: Section = {"sequence_parallel": True}
LAYOUTS: list[tuple[str, Section]] = [
    (GPT2, {}),
    (GPT2, {"train": {"micro_batch_size": 5}}),
    (LLAMA, {"train": {"precision": "fp64"}, "optimizer": {"name": "sgd"}}),
    (NEOX, {"layout": {"dp": 2}, "zero": {"stage": 1}, "optimizer": {"name": "lamb"}}),
    (GPT2, {"layout": {"dp": 2}, "zero": {"stage": 2}}),
    (LLAMA, {"layout": {"dp": 2, "tp": 2}, "zero": {"stage": 2}, "optimizer": {"name": "adamw8bit"}, "tensor": CUT}),
    (GPT2, {"layout": {"dp": 4}, "zero": {"stage": 3, "shard_size": 2}, "optimizer": {"name": "adamw8bit"}}),
    (GPT2, {"layout": {"pp": 2}, "pipeline": {"schedule": "zb-v"}, "optimizer": {"name": "adamw8bit"}}),
    (GPT2_UNTIED, {"layout": {"dp": 2}, "zero": {"stage": 2}, "pipeline": {"schedule": "gpipe"}}),
    (LLAMA_TIED, {"layout": {"dp": 2}, "zero": {"stage": 3}}),
    (NEOX, {"layout": {"dp": 2}, "zero": {"stage": 3, "prefetch": 2}, "recompute": {"mode": "full", "every": 2}}),
    (GPT2, {"layout": {"dp": 4}, "zero": {"stage": 3, "shard_size": 2, "prefetch": 0}}),
    (LLAMA, {"layout": {"tp": 2}, "tensor": {"sequence_parallel": True}}),
    (GPT2, {"layout": {"tp": 2}, "tensor": {"sequence_parallel": True}, "recompute": {"mode": "full"}}),
    (LLAMA_TIED, {"layout": {"tp": 2, "dp": 2}, "recompute": {"mode": "selective"}, "zero": {"stage": 3}}),
    (GPT2, {"layout": {"pp": 2}}),
    (NEOX_TIED, {"layout": {"pp": 2}, "pipeline": {"schedule": "zb-h1"}, "recompute": {"mode": "full"}}),
    (LLAMA_TIED, {"layout": {"pp": 2, "dp": 2}, "pipeline": {"schedule": "zb-h1"}, "zero": {"stage": 3}}),
    (GPT2, {"layout": {"pp": 2, "dp": 2}, "pipeline": {"schedule": "gpipe"}, "zero": {"stage": 2}}),
    (NEOX_TIED, {"layout": {"pp": 2, "dp": 2}, "pipeline": {"schedule": "zb-v"}, "zero": {"stage": 3}}),
    (NEOX, {"train": {"precision": "bf16"}, "layout": {"dp": 2}, "zero": {"stage": 2}}),
    (LLAMA, {"train": {"precision": "fp16"}, "layout": {"pp": 2}, "recompute": {"mode": "selective"}}),
    (GPT2, {"train": {"precision": "bf16"}, "layout": {"tp": 2}, "tensor": {"sequence_parallel": True}}),
]


@pytest.mark.parametrize(("model", "sections"), LAYOUTS, ids=str)
def test_every_rank_holds_what_is_planned_to_the_byte(ranks: RankPool, model: str, sections: Section) -> None:
    config = config_of(model, **sections)
    found = ranks.run(config.layout.world_size, rows_of, config)
    assert all(each == found[0] for each in found)
    assert [row["rank"] for row in found[0]] == list(range(config.layout.world_size))
    for row in found[0]:
        assert row["coordinates"] == config.layout.coordinates(row["rank"])._asdict()
        assert row["measured"] == row["planned"]
        assert set(row["measured"]) == set(QUANTITIES)
        assert row["unknown"] == {}
        assert (
            0 <= row["padding"] < 0.2 * sum(row["planned"][name] for name in ("parameters", "gradients", "optimizer"))
        )
    assert surprises(found[0]) == []


def offloaded_rows_of(context: RankContext, config: RunConfig, fault: str | None = None) -> list[Row]:
    with pretended(SMALLEST):
        return rows_of(context, config, fault)


SMALLEST = 400
"""Bytes: norms' statistics stay, rows move."""
BOTH: Section = {"zero": {"offload": "cpu"}, "recompute": {"offload": "cpu"}}
OFFLOADED: list[tuple[str, Section]] = [
    (GPT2, {"zero": {"offload": "cpu"}}),
    (NEOX, {"zero": {"offload": "cpu"}, "layout": {"dp": 2}, "optimizer": {"name": "adamw8bit"}}),
    (LLAMA, {"recompute": {"offload": "cpu"}, "train": {"micro_batch_size": 5}, "pipeline": {"schedule": "gpipe"}}),
    (NEOX, {"zero": {"offload": "cpu", "stage": 3}, "recompute": {"offload": "cpu"}, "layout": {"dp": 2}}),
    (  # a small layer ends the first rank's stage, after a large one
        LLAMA,
        {
            "model": {"num_hidden_layers": 5},
            "zero": {"stage": 3},
            "recompute": {"offload": "cpu", "mode": "full", "every": 2},
            "layout": {"pp": 2, "dp": 2},
        },
    ),
    (LLAMA, {**BOTH, "train": {"precision": "bf16"}, "layout": {"tp": 2}, "tensor": {"sequence_parallel": True}}),
    (
        GPT2,
        {
            "zero": {"offload": "cpu"},
            "recompute": {"offload": "cpu", "mode": "full", "every": 2},
            "layout": {"pp": 2},
            "pipeline": {"schedule": "interleaved"},
            "train": {"micro_batch_size": 2},
        },
    ),
    (
        NEOX_TIED,
        {
            "zero": {"offload": "cpu", "stage": 3},
            "recompute": {"offload": "cpu", "mode": "selective"},
            "layout": {"pp": 2, "dp": 2},
            "pipeline": {"schedule": "zb-v"},
            "optimizer": {"name": "sgd"},
        },
    ),
    (LLAMA, {**BOTH, "layout": {"pp": 2}, "pipeline": {"schedule": "zb-h1"}, "train": {"micro_batch_size": 2}}),
]


@pytest.mark.parametrize(("model", "sections"), OFFLOADED, ids=str)
def test_each_memory_of_an_offloaded_run_holds_what_is_planned(ranks: RankPool, model: str, sections: Section) -> None:
    """Nothing of the optimizer is on the device; what the layers keep is there no longer than they move."""
    config = config_of(model, **sections)
    (rows, *_) = ranks.run(config.layout.world_size, offloaded_rows_of, config)
    here = {name: {"offload": "none"} for name in ("zero", "recompute") if getattr(config, name).offload == "cpu"}
    without = config_of(model, **{**sections, **{name: {**sections[name], **off} for name, off in here.items()}})
    (plain, *_) = ranks.run(config.layout.world_size, rows_of, without)
    for row, other in zip(rows, plain, strict=True):
        found, before = row["measured"], other["measured"]
        assert found == row["planned"]
        assert row["unknown"] == {}
        assert (found["host_optimizer"] > 0) == (found["optimizer"] == 0) == ("zero" in here)
        moved = found["host_activations"]
        assert before["activations"] - moved <= found["activations"] <= before["activations"]
        assert found["activations"] < before["activations"] or moved == 0 or len(rows) > 1
    assert any(row["measured"]["host_activations"] for row in rows) == ("recompute" in here)
    assert surprises(rows) == []


def test_a_storage_that_stays_on_the_device_is_told() -> None:
    """What should have left is given back by nobody."""
    (row,) = offloaded_rows_of(RankContext(0, 1), config_of(GPT2, **BOTH), "nothing given back")
    assert row["measured"]["host_activations"] == row["planned"]["host_activations"]
    (told,) = surprises([row])
    assert f"rank 0 holds {row['measured']['activations']:,} bytes of activations where" in told


def test_a_run_on_a_cpu_offloads_nothing_and_plans_nothing_there() -> None:
    (row,) = rows_of(RankContext(0, 1), config_of(GPT2, **BOTH))
    (plain,) = rows_of(RankContext(0, 1), config_of(GPT2))
    assert row["planned"] == plain["planned"]
    assert row["measured"] == plain["measured"]


@pytest.mark.parametrize(
    ("fault", "quantity", "ranks_named", "sections"),
    [
        ("gradients stay", "gradients", {1}, {"layout": {"dp": 2}, "zero": {"stage": 2}}),
        ("activations stay", "activations", {0, 1}, {"layout": {"dp": 2}}),
    ],
)
def test_a_plan_that_is_wrong_is_told_with_the_rank_and_the_quantity(
    ranks: RankPool, fault: str, quantity: str, ranks_named: set[int], sections: Section
) -> None:
    rows = ranks.run(2, rows_of, config_of(GPT2, **sections), fault)[0]
    (told,) = surprises(rows)
    assert any(
        f"rank {rank} holds {rows[rank]['measured'][quantity]:,} bytes of {quantity} " in told for rank in ranks_named
    )
    assert {row["rank"] for row in rows if row["measured"][quantity] != row["planned"][quantity]} == ranks_named


@pytest.mark.parametrize(
    ("model", "sections", "quantities", "why"),
    [
        (GPT2, {"model": {"resid_pdrop": 0.1}}, {"activations"}, "dropout"),
        (GPT2, {"data": {"reset_attention": True}}, {"activations"}, "data.reset_attention"),
        (GPT2, {"train": {"precision": "fp8"}}, {"activations"}, "train.precision=fp8"),
        (GPT2, {"optimizer": {"name": "examples.own_optimizer:RmsProp"}}, {"optimizer"}, "optimizer.name"),
        (GPT2, {**BOTH, "optimizer": {"name": "examples.own_optimizer:RmsProp"}}, {"host_optimizer"}, "optimizer.name"),
        (GPT2, {**BOTH, "model": {"resid_pdrop": 0.1}}, {"activations", "host_activations"}, "dropout"),
    ],
)
def test_what_has_no_closed_form_is_said_to_have_none(
    model: str, sections: Section, quantities: set[str], why: str
) -> None:
    rows = offloaded_rows_of if "zero" in sections else rows_of
    (row,) = rows(RankContext(0, 1), config_of(model, **sections))
    assert set(row["unknown"]) == quantities
    for name in row["planned"]:
        assert row["planned"][name] == (None if name in quantities else row["measured"][name])
        assert row["measured"][name] is not None
    assert all(why in said for said in row["unknown"].values())
    assert surprises([row]) == []


@pytest.mark.parametrize(
    ("backend", "stage", "keeps_gradients"),
    [("fsdp2", 2, True), ("fsdp2", 3, True), ("deepspeed", 2, False), ("fairscale", 1, True), ("fairscale", 3, True)],
)
def test_another_engine_is_measured_as_far_as_it_shows_what_a_rank_owns(
    ranks: RankPool, backend: str, stage: int, keeps_gradients: bool
) -> None:
    """All ranks together own the model once and two moments of it; DeepSpeed has dropped its gradients by then."""
    config = config_of(GPT2_UNTIED, layout={"dp": 2}, zero={"stage": stage, "backend": backend})
    rows = ranks.run(2, rows_of, config)[0]
    (native,) = rows_of(RankContext(0, 1), config_of(GPT2_UNTIED))
    whole = native["measured"]["parameters"] - native["padding"] // 4
    assert sum(row["measured"]["parameters"] for row in rows) == whole
    assert sum(row["measured"]["gradients"] for row in rows) == (whole if keeps_gradients else 0)
    assert sum(row["measured"]["optimizer"] for row in rows) == 2 * whole
    for row in rows:
        assert row["planned"] == dict.fromkeys(QUANTITIES)
        assert f"zero.backend={backend}" in row["unknown"]["parameters"]
        assert row["measured"]["activations"] is None


def test_only_the_first_step_is_counted() -> None:
    state = build_state(config_of(NEOX), Mesh.alone())
    report = MemoryReport(config_of(NEOX), state)
    with report.first_step():
        assert state.engine.record is not None
    with report.first_step():
        assert state.engine.record is None


def train_on_rank(_: object, config: RunConfig) -> None:
    train_on(config, Mesh.build(config.layout, ledger=Ledger(), timeout_s=30), "on ranks")


def test_a_run_leaves_its_memory_in_a_file_in_the_log_and_in_the_report(ranks: RankPool, tmp_path: Path) -> None:
    """The run is resumed, at another layout: the account is of the layout that goes on."""
    common: Section = {"run": {"dir": str(tmp_path)}, "checkpoint": {"every": 0}}
    first = config_of(GPT2, **common, train={"steps": 4, "stop_after": 2, "eval_every": 0})
    train_on_rank(None, first)
    (alone,) = json.loads((tmp_path / "memory.json").read_text())
    then = config_of(GPT2, **common, train={"steps": 4, "eval_every": 2}, layout={"dp": 2}, zero={"stage": 2})
    ranks.run(2, train_on_rank, then)
    rows = json.loads((tmp_path / "memory.json").read_text())
    assert [row["measured"] for row in rows] == [row["planned"] for row in rows]
    assert [row["rank"] for row in rows] == [0, 1]
    for name, share in {"parameters": 1, "gradients": 2, "optimizer": 2}.items():
        assert rows[0]["measured"][name] == pytest.approx(alone["measured"][name] / share, rel=0.01)
    log = (tmp_path / "log.txt").read_text()
    assert log.count("memory of each rank") == 2
    assert "warning" not in log
    report = (tmp_path / "report.html").read_text()
    assert "<h2>Memory</h2>" in report
    assert "gradients under way" in report


def test_a_model_of_ones_own_is_measured_but_not_planned() -> None:
    config = run_file(
        GPT2, model={"family": "tests.training.test_memory_report:build_tiny"}, train={"precision": "fp32"}
    )
    (row,) = rows_of(RankContext(0, 1), config)
    assert row["measured"]["parameters"] > 0
    assert row["measured"]["activations"] > 0
    assert row["planned"] == dict.fromkeys(QUANTITIES)
    assert "model.family" in row["unknown"]["activations"]


def build_tiny(config: Any, axis: Any, sequence_parallel: bool) -> torch.nn.Module:
    with mock.patch("tests.training.tiny.VOCAB", config.vocab_size):
        return Tiny(axis)
