"""Oracle: one process in float64; what the model says of itself; and ln(256), the loss of one that knows nothing."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from examples import own_model
from megalm.batch import MicroBatch
from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import open_checkpoint
from megalm.errors import UserError
from megalm.ledger import Ledger
from megalm.mesh import Axis, Mesh
from megalm.models.config import ModelConfig
from megalm.training.build import build_model
from megalm.training.loop import train_on
from megalm.verify.compare import Tolerance, compare
from tests.examples.runs import ROOT, RUN_FILE, SMALL, megalm, seen_alone, seen_by_rank, small_run
from tests.ranks import RankPool

FORGETFUL = '''

class RowParallelLinear(RowParallelLinear):
    """One that does not sum over the ranks."""

    def forward(self, x):
        return x @ self.weight.t() + self.bias
'''
"""At the end of a copy of the example: the name that the mixers are built with now means this class."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_learns_and_its_frozen_table_is_saved_as_it_was_drawn(tmp_path: Path) -> None:
    sizes = ("model.hidden_size=64", "model.intermediate_size=128", "train.seq_length=64")
    config = small_run(f"run.dir={tmp_path}", *sizes, "train.precision=fp32", "train.steps=40")
    train_on(config, Mesh.alone(ledger=Ledger()), "one process")

    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] == pytest.approx(math.log(256), abs=0.5)
    assert sum(losses[-5:]) / 5 < math.log(256) - 2

    table = torch.zeros(config.model.max_position_embeddings, config.model.hidden_size)
    saved = open_checkpoint(tmp_path / "checkpoints" / "step-00000040", Mesh.alone().world)
    kept = [name for name in saved.names() if "places" in name]
    saved.load({"places.weight": Piece(tuple(table.shape), table.dtype, (((0, 0), table),))})
    assert kept == ["places.weight"]  # and no optimizer state
    torch.manual_seed(config.run.seed)
    assert torch.equal(table, own_model.Convolutions(config.model, Axis.alone()).places.weight)


def test_no_loss_depends_on_later_tokens() -> None:
    config = small_run()
    model = build_model(config, Mesh.alone())
    tokens = torch.arange(48).view(2, 24) * 5 % 256
    places = torch.arange(24).expand(2, 24)

    def loss_at(place: int, tokens: torch.Tensor) -> float:
        labels = torch.where(places == place, tokens.roll(-1, 1), -100)
        loss: torch.Tensor = model(MicroBatch(tokens, labels, places, places, loss_scale=1.0))
        return loss.item()

    for place in (0, 7, 22):
        later = torch.where(places > place + 1, 9, tokens)
        earlier = torch.where(places == place, 9, tokens)
        assert loss_at(place, later) == loss_at(place, tokens)
        assert loss_at(place, earlier) != loss_at(place, tokens)


@pytest.mark.parametrize("layout", [{"dp": 2, "tp": 2}, {"tp": 3}])
def test_no_layout_changes_the_result(ranks: RankPool, layout: dict[str, int]) -> None:
    """21 inner features and 256 tokens, which 2 and 3 do not divide."""
    config = small_run(*(f"layout.{axis}={size}" for axis, size in layout.items()))
    probes = ranks.run(config.layout.world_size, seen_by_rank, config)
    findings = compare(seen_alone(small_run()), probes, Tolerance.of("fp64"), config.optimizer.lr)
    assert [finding for finding in findings if not finding.agrees] == []
    assert {held.spec.name for held in probes[0].held} >= {"places.weight", "mixers.1.kernel", "tokens.weight"}
    assert not any(held.spec.name == "places.weight" for held in probes[0].held if "gradient" in held.moment)


def test_the_command_verifies_it() -> None:
    told = megalm("verify", "examples/own_model.yaml", *SMALL, "layout.tp=2", "--steps=2")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "the layout does not change the result" in told.stdout


def test_the_command_names_the_tensor_of_a_fault(tmp_path: Path) -> None:
    source = (ROOT / "examples" / "own_model.py").read_text()
    (tmp_path / "forgetful.py").write_text(source + FORGETFUL)
    family = "model.family=forgetful:build"
    told = megalm("verify", str(RUN_FILE), *SMALL, family, "layout.tp=2", "--steps=1", folder=tmp_path)
    assert told.returncode == 1, told.stdout + told.stderr
    assert "the layout changes the result: first in step 1 loss" in told.stdout
    assert "disagrees on rank 0 at [" in told.stdout
    assert any(f"\n{name} disagrees" in told.stdout for name in ("tokens.weight", "mixers.0.norm.weight"))
    assert "one process has" in told.stdout
    assert "ParamSpec(shape=" in told.stdout


def test_sequence_parallelism_is_refused() -> None:
    config: ModelConfig = small_run().model
    with pytest.raises(UserError, match="plain torch norms"):
        own_model.build(config, Axis.alone(), True)
