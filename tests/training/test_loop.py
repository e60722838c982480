"""Oracle: one uninterrupted process; the loss column of every other way through the same run must equal its own."""

import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from megalm.errors import TrainingError, UserError
from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.loop import train_on
from tests.ranks import RankPool
from tests.verify.runs import GPT2, LLAMA, run_file


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def column(run_dir: Path, name: str) -> list[float]:
    return [row[name] for row in rows(run_dir)]


def run_of(run_dir: Path, model: str = GPT2, /, **sections: Any) -> RunConfig:
    merged = {
        "run": {"dir": str(run_dir)},
        **sections,
        "train": {"steps": 6, "micro_batch_size": 4, "eval_every": 0, **sections.get("train", {})},
        "checkpoint": {"every": 2, **sections.get("checkpoint", {})},
    }
    return run_file(model, **merged)


def train_alone(config: RunConfig) -> None:
    train_on(config, Mesh.alone(ledger=Ledger()), "alone")


def train_on_rank(_: object, config: RunConfig) -> None:
    train_on(config, Mesh.build(config.layout, ledger=Ledger(), timeout_s=30), "on ranks")


@pytest.mark.parametrize(
    ("model", "layout"),
    [(GPT2, {"dp": 2}), (GPT2, {"tp": 2}), (GPT2, {"dp": 3}), (LLAMA, {"dp": 2, "tp": 2}), (LLAMA, {"tp": 4})],
)
def test_loss_and_norm_columns_do_not_depend_on_the_layout(
    ranks: RankPool, tmp_path: Path, model: str, layout: dict[str, int]
) -> None:
    train_alone(run_of(tmp_path / "alone", model, checkpoint={"every": 0}))
    spread = run_of(tmp_path / "spread", model, layout=layout, checkpoint={"every": 0})
    ranks.run(spread.layout.world_size, train_on_rank, spread)
    for name in ("loss", "grad_norm"):
        assert column(tmp_path / "spread", name) == pytest.approx(column(tmp_path / "alone", name), rel=1e-10, abs=0)
    assert [row["step"] for row in rows(tmp_path / "spread")] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "spread" / "checkpoints").exists()


def assert_goes_on(ranks: RankPool, first: RunConfig, then: RunConfig, alone: Path) -> None:
    """Run both in their folder; the second must go on from the first's last step, to the columns of one process."""
    for config in (first, then):
        ranks.run(config.layout.world_size, train_on_rank, config)
    run_dir = Path(then.run.dir)
    for name in ("loss", "grad_norm"):
        expected = column(alone, name)
        assert len(expected) == then.train.steps
        assert column(run_dir, name) == pytest.approx(expected, rel=1e-10, abs=0)
    assert f"resumed from step {first.train.stop_after}\n" in (run_dir / "log.txt").read_text()


@pytest.mark.parametrize(
    ("model", "first", "then"),
    [
        (LLAMA, {"dp": 2, "tp": 2}, {"tp": 4}),
        (LLAMA, {"dp": 2, "tp": 2}, {"dp": 4}),
        (LLAMA, {"dp": 2, "tp": 2}, {}),
        (LLAMA, {"pp": 4}, {"tp": 2}),
        (GPT2, {"pp": 4}, {"pp": 2, "dp": 2}),
        (GPT2, {"tp": 2}, {"pp": 3}),
    ],
)
def test_a_run_goes_on_at_another_layout(
    ranks: RankPool, tmp_path: Path, model: str, first: dict[str, int], then: dict[str, int]
) -> None:
    """Saved in the middle with optimizer state; ranks share grouped key heads at tp=2, and a tied table with pp > 1."""
    train_alone(run_of(tmp_path / "alone", model))
    saved = run_of(tmp_path / "run", model, layout=first, train={"stop_after": 3})
    assert_goes_on(ranks, saved, run_of(tmp_path / "run", model, layout=then), tmp_path / "alone")


def test_resume_is_bit_exact_in_fp32(tmp_path: Path) -> None:
    fp32: dict[str, Any] = {"train": {"precision": "fp32"}}
    train_alone(run_of(tmp_path / "alone", **fp32))
    train_alone(run_of(tmp_path / "run", train={"precision": "fp32", "stop_after": 4}))
    train_alone(run_of(tmp_path / "run", **fp32))
    assert column(tmp_path / "run", "loss") == column(tmp_path / "alone", "loss")


@pytest.mark.parametrize("damage", ["changed", "missing", "short"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    train_alone(run_of(tmp_path / "alone"))
    train_alone(run_of(tmp_path / "run"))
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    victim = max((file for file in newest.iterdir() if file.is_file()), key=lambda file: file.stat().st_size)
    data = victim.read_bytes()
    match damage:
        case "changed":
            victim.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
        case "missing":
            victim.unlink()
        case "short":
            victim.write_bytes(data[:-1])
    train_alone(run_of(tmp_path / "run"))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert newest.name in log
    assert victim.name in log
    assert "resumed from step 4" in log
    assert column(tmp_path / "run", "loss") == column(tmp_path / "alone", "loss")


def test_a_complete_run_is_not_run_again(tmp_path: Path) -> None:
    train_alone(run_of(tmp_path))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    train_alone(run_of(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert "already complete" in (tmp_path / "log.txt").read_text()


def test_more_steps_extend_a_run(tmp_path: Path) -> None:
    constant: dict[str, Any] = {"lr_schedule": {"name": "constant"}}
    train_alone(run_of(tmp_path / "run", **constant))
    train_alone(run_of(tmp_path / "run", **constant, train={"steps": 8}))
    train_alone(run_of(tmp_path / "alone", **constant, train={"steps": 8}))
    assert column(tmp_path / "run", "loss") == column(tmp_path / "alone", "loss")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"run": {"seed": 5}}, "run.seed"),
        ({"model": {"hidden_size": 80}}, "model.hidden_size"),
        ({"train": {"global_batch_size": 8}}, "train.global_batch_size"),
        ({"data": {"reset_attention": True}}, "data.reset_attention"),
    ],
)
def test_another_run_in_the_same_directory_is_refused(tmp_path: Path, change: dict[str, Any], key: str) -> None:
    train_alone(run_of(tmp_path, train={"stop_after": 2}))
    changed = {name: {**fields, **({"dir": str(tmp_path)} if name == "run" else {})} for name, fields in change.items()}
    with pytest.raises(UserError, match=key):
        train_alone(run_of(tmp_path, **changed))


def test_a_new_run_starts_from_anothers_weights(tmp_path: Path) -> None:
    train_alone(run_of(tmp_path / "first"))
    load = {"load": str(tmp_path / "first" / "checkpoints" / "step-00000006"), "weights_only": True}
    train_alone(run_of(tmp_path / "second", checkpoint=load))
    assert [row["step"] for row in rows(tmp_path / "second")] == [1, 2, 3, 4, 5, 6]
    assert column(tmp_path / "second", "loss")[0] != column(tmp_path / "first", "loss")[0]
    assert column(tmp_path / "second", "lr") == column(tmp_path / "first", "lr")


def test_stop_after_saves_though_checkpoints_are_off(tmp_path: Path) -> None:
    train_alone(run_of(tmp_path, checkpoint={"every": 0}, train={"stop_after": 2}))
    assert [folder.name for folder in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000002"]


def test_rows_say_what_the_contract_says(tmp_path: Path) -> None:
    train_alone(run_of(tmp_path))
    first = rows(tmp_path)[0]
    assert first.keys() == {
        *("step", "loss", "grad_norm", "lr", "tokens"),
        *("tokens_per_s", "step_time_s", "memory_gib", "mfu"),
    }
    assert first["tokens"] == 12 * 13
    assert first["mfu"] is None
    assert first["loss"] == pytest.approx(math.log(1009), rel=0.05)
    assert (tmp_path / "report.html").is_file()
    assert RunConfig.load(tmp_path / "run.yaml") == run_of(tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_parameters_name(tmp_path: Path) -> None:
    config = run_of(tmp_path, optimizer={"lr": 1e200, "clip_grad_norm": 0.0})
    with pytest.raises(TrainingError, match=r"step \d: loss .* of model\.\S+ is not finite"):
        train_alone(config)
    assert torch.is_grad_enabled()


def refusal_on_rank(_: object, config: RunConfig) -> str:
    with mock.patch.dict(sys.modules, {"wandb": None}), pytest.raises(UserError) as refused:
        train_on_rank(_, config)
    return str(refused.value)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"run": {"dir": "/dev/null/run"}}, "run.dir=/dev/null/run cannot be made"),
        ({"track": {"wandb": True}}, "track.wandb: true needs wandb"),
    ],
)
def test_what_only_the_first_rank_can_see_is_refused_on_all(
    ranks: RankPool, tmp_path: Path, sections: dict[str, Any], told: str
) -> None:
    for sentence in ranks.run(2, refusal_on_rank, run_of(tmp_path, layout={"dp": 2}, **sections)):
        assert sentence.startswith(told)
