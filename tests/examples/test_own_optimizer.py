"""Oracle: a plain loop with torch.optim.RMSprop over the same model, and one process in float64."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples import own_model
from megalm.data.loader import TrainingData
from megalm.ledger import Ledger
from megalm.mesh import Axis, Mesh
from megalm.objectives.clm import clm
from megalm.parameters import initialize, name_parameters
from megalm.run_config import RunConfig
from megalm.training.loop import train_on
from megalm.verify.compare import Tolerance, compare
from tests.examples.runs import seen_alone, seen_by_rank, small_run
from tests.ranks import RankPool

STEPS, LR, KEEP, MOMENTUM, DECAY, CLIP = 6, 3e-3, 0.9, 0.7, 0.2, 0.5
OPTIMIZER = (
    "optimizer.name=examples.own_optimizer:RmsProp",
    f"optimizer.lr={LR}",
    f"optimizer.betas=[0.5, {KEEP}]",
    f"optimizer.weight_decay={DECAY}",
    f"optimizer.clip_grad_norm={CLIP}",
    "lr_schedule.name=constant",
    f"train.steps={STEPS}",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_of(folder: Path, *overrides: str) -> RunConfig:
    return small_run(*OPTIMIZER, f"optimizer.options={{momentum: {MOMENTUM}}}", f"run.dir={folder}", *overrides)


def column(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def plain_loop(config: RunConfig) -> tuple[list[float], list[float]]:
    """Return losses and gradient norms of a loop as anybody writes it: whole batches, autograd's own gradients."""
    torch.manual_seed(config.run.seed)
    model = own_model.build(config.model, Axis.alone(), False).double()
    name_parameters(model)
    initialize(model.parameters(), config.run.seed, {})
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.RMSprop(learned, lr=LR, alpha=KEEP, eps=config.optimizer.eps, momentum=MOMENTUM)
    data = TrainingData(
        config.data, seq_length=24, global_batch_size=4, seed=config.run.seed, vocab_size=config.model.vocab_size
    )
    losses, norms = [], []
    for step in range(STEPS):
        batch = clm(data.rows(step, 0, 4), reset_attention=False)
        loss = model(replace(batch, loss_scale=1 / batch.num_tokens))
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(learned, CLIP).item())
        with torch.no_grad():
            for parameter in learned:
                if parameter.ndim > 1:
                    parameter.mul_(1 - LR * DECAY)
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms


def test_a_run_has_the_losses_of_a_plain_loop(tmp_path: Path) -> None:
    config = run_of(tmp_path, "checkpoint.every=0")
    train_on(config, Mesh.alone(ledger=Ledger()), "one process")
    losses, norms = plain_loop(config)
    assert column(tmp_path, "loss") == pytest.approx(losses, rel=1e-10, abs=0)
    assert column(tmp_path, "grad_norm") == pytest.approx(norms, rel=1e-10, abs=0)
    assert min(norms) > CLIP
    assert losses[-1] < losses[0] - 0.1


def test_what_it_keeps_survives_a_resume(tmp_path: Path) -> None:
    for folder, stops in ((tmp_path / "whole", [STEPS]), (tmp_path / "halves", [3, STEPS])):
        for stop in stops:
            config = run_of(folder, "checkpoint.every=0", f"train.stop_after={stop}")
            train_on(config, Mesh.alone(ledger=Ledger()), "one process")
    assert column(tmp_path / "halves", "loss") == column(tmp_path / "whole", "loss")


def test_no_layout_changes_the_result(ranks: RankPool, tmp_path: Path) -> None:
    config = run_of(tmp_path, "layout.dp=2", "layout.tp=2")
    findings = compare(seen_alone(run_of(tmp_path)), ranks.run(4, seen_by_rank, config), Tolerance.of("fp64"), LR)
    assert [finding for finding in findings if not finding.agrees] == []
