"""Oracle: F1 from its definition by hand, and one process that says of every held-out sample which class it is of."""

import random
from pathlib import Path

import pytest
import torch

from megalm.data.loader import ValidationData
from megalm.mesh import Mesh
from megalm.objectives.classify import Classify
from megalm.run_config import RunConfig
from megalm.training.build import build_model, build_state
from megalm.training.evaluate import accuracy, evaluate, macro_f1
from megalm.training.feed import cut_of, objective_of
from tests.data.test_record_cuts import Parts, corpus
from tests.ranks import RankContext, RankPool
from tests.verify.runs import LLAMA, VOCAB_SIZE, run_file


def test_f1_by_hand() -> None:
    said_cc = torch.tensor([[3, 1, 0, 0], [2, 0, 0, 0], [0, 1, 3, 0], [0, 0, 0, 0]])
    assert accuracy(said_cc) == 6 / 10
    # class 0: precision 3/5, recall 3/4; class 1: never right; class 2: precision 1, recall 3/4; class 3: not there
    f1 = [2 * 0.6 * 0.75 / 1.35, 0.0, 2 * 0.75 / 1.75]
    assert macro_f1(said_cc) == pytest.approx(sum(f1) / 3)
    assert (accuracy(torch.zeros(2, 2)), macro_f1(torch.zeros(2, 2))) == (0.0, 0.0)


def held_out(config: RunConfig) -> ValidationData:
    return ValidationData(
        config.data, seq_length=13, global_batch_size=12, vocab_size=VOCAB_SIZE, seed=0, cut=cut_of(config)
    )


def evaluated(context: RankContext | None, config: RunConfig) -> dict[str, float]:
    mesh = Mesh.alone() if context is None else Mesh.build(config.layout, timeout_s=30)
    return evaluate(build_state(config, mesh), config, held_out(config), objective_of(config))


def run(prefix: str, **layout: int) -> RunConfig:
    return run_file(
        LLAMA,
        objective={"name": "classify"},
        data={"train": [{"path": prefix}], "validation": [prefix]},
        model={"num_labels": 4, "initializer_range": 0.5},
        train={"micro_batch_size": 5, "eval_batches": 9},
        layout=layout,
    )


@pytest.mark.parametrize("layout", [{"dp": 2}, {"dp": 2, "pp": 2}, {"tp": 2}])
def test_predictions_reach_the_metrics_at_any_layout(ranks: RankPool, tmp_path: Path, layout: dict[str, int]) -> None:
    generator = random.Random(2)
    records: list[Parts] = [
        [(0, generator.choices(range(VOCAB_SIZE), k=generator.randint(1, 20))), (2, [generator.randrange(4)])]
        for _ in range(41)
    ]
    corpus(tmp_path / "texts", records)
    config = run(str(tmp_path / "texts"))
    found = evaluated(None, config)

    said_cc = torch.zeros(4, 4)
    batch = Classify()(held_out(config).rows(0, 0, 41), reset_attention=False)
    assert batch.classes_b is not None
    *below, head = build_model(config, Mesh.alone()).eval().blocks()  # type: ignore[operator]
    flow = None
    for block in below:
        flow = block(flow, batch)
    said = head.score.class_logits(head.norm(flow), batch).argmax(-1)
    for asked, answer in zip(batch.classes_b.tolist(), said.tolist(), strict=True):
        said_cc[asked, answer] += 1
    assert found["val_accuracy"] == accuracy(said_cc)
    assert found["val_f1"] == macro_f1(said_cc)
    assert 0 < found["val_f1"] < found["val_accuracy"] + 0.3
    assert len(said.unique()) > 1

    config = run(str(tmp_path / "texts"), **layout)
    for each in ranks.run(config.layout.world_size, evaluated, config):
        assert each == pytest.approx(found, rel=1e-12)
