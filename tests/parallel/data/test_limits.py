"""Oracle: docs/backends.md, by hand: what each engine refuses, in one sentence that says what to do."""

from collections.abc import Mapping
from typing import Any

import pytest

from megalm.errors import UserError
from megalm.layout import Layout
from megalm.parallel.data.limits import STAGES
from tests.training.backends.runs import run_config

TWO = Layout(dp=2)

REFUSED: list[tuple[str, int, Layout, dict[str, Mapping[str, Any]], str]] = [
    ("fsdp2", 0, TWO, {}, r"has no stage 0; set zero.stage=2 or 3, or use native\.$"),
    ("fsdp2", 1, TWO, {}, "has no stage 1"),
    ("fairscale", 2, TWO, {}, "has no stage 2; set zero.stage=1 or 3"),
    ("deepspeed", 3, Layout(dp=2, pp=2), {}, "needs layout.pp=1"),
    ("fsdp2", 3, Layout(dp=2, pp=2), {}, "needs layout.pp=1"),
    ("deepspeed", 1, Layout(tp=2), {}, "needs layout.dp of 2 or more"),
    ("fsdp2", 3, TWO, {"zero": {"stage": 3, "backend": "fsdp2", "shard_size": 1}}, "leave zero.shard_size=null"),
    ("fsdp2", 3, Layout(dp=2, tp=2), {"tensor": {"sequence_parallel": True}}, "set tensor.sequence_parallel=false"),
    ("deepspeed", 3, TWO, {"train": {"precision": "fp64"}}, "does not work with train.precision=fp64"),
    ("fairscale", 3, TWO, {"train": {"precision": "fp64"}}, "set train.precision=fp32"),
    ("fsdp2", 3, TWO, {"optimizer": {"name": "examples.own_optimizer:Lion"}}, "set optimizer.name=adamw"),
    ("deepspeed", 2, TWO, {"optimizer": {"name": "adamw8bit"}}, "set optimizer.name=adamw, or use zero.backend=native"),
    ("deepspeed", 2, TWO, {"run": {"trace": True}}, "set run.trace=false"),
    ("deepspeed", 2, TWO, {"run": {"check_replicas": 5}}, "set run.check_replicas=0"),
    ("deepspeed", 3, TWO, {"recompute": {"offload": "cpu"}}, "set recompute.offload=none"),
    ("fairscale", 3, TWO, {"recompute": {"mode": "selective", "offload": "cpu"}}, "set recompute.offload=none"),
    ("fsdp2", 3, TWO, {"zero": {"stage": 3, "backend": "fsdp2", "offload": "cpu"}}, "zero.offload=cpu"),
    ("fairscale", 3, TWO, {"zero": {"stage": 3, "backend": "fairscale", "offload": "cpu"}}, "or use native, or deeps"),
    ("deepspeed", 0, TWO, {"zero": {"stage": 0, "backend": "deepspeed", "offload": "cpu"}}, "zero.offload=cpu"),
    ("deepspeed", 2, TWO, {"zero": {"stage": 2, "backend": "deepspeed", "offload": "nvme"}}, r"and zero\.stage=3, or"),
    ("native", 3, TWO, {"zero": {"stage": 3, "offload": "nvme"}}, r"set zero\.backend=deepspeed and zero\.stage=3"),
    ("deepspeed", 3, TWO, {"zero": {"stage": 3, "backend": "deepspeed", "offload": "nvme"}}, r"set zero\.offload_path"),
]


@pytest.mark.parametrize(("backend", "stage", "layout", "sections", "told"), REFUSED)
def test_refused_in_one_sentence(
    backend: str, stage: int, layout: Layout, sections: dict[str, Mapping[str, Any]], told: str
) -> None:
    with pytest.raises(UserError, match=told) as refusal:
        run_config(layout, backend, stage, **sections)
    assert "\n" not in str(refusal.value)
    assert f"zero.backend={backend}" in str(refusal.value)


@pytest.mark.parametrize("backend", STAGES)
def test_what_an_engine_has_is_not_refused(backend: str) -> None:
    for stage in STAGES[backend]:
        assert run_config(Layout(dp=2, tp=2), backend, stage, recompute={"mode": "full"}).zero.stage == stage
