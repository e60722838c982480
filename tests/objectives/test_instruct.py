"""Oracle: samples laid out by hand, and the loss of each record alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from megalm.batch import IGNORED
from megalm.data.corpora import Reading
from megalm.data.loader import Rows
from megalm.data.record_cuts import PackedRecords
from megalm.errors import UserError
from megalm.mesh import Mesh
from megalm.objectives.instruct import instruct
from megalm.training.build import build_model
from tests.data.test_record_cuts import Parts, corpus
from tests.verify.runs import GPT2_UNTIED, LLAMA, run_file

RECORDS: list[Parts] = [
    [(0, [1, 2]), (1, [3, 4])],
    [(0, [5]), (1, [6, 7]), (0, [8]), (1, [9])],
    [(1, [10, 11])],
]


def packed(path: Path, seq_length: int) -> Rows:
    cut = PackedRecords("it", corpus(path / "a", RECORDS), Reading(seq_length, 100, 0), ())
    samples = [cut.read(0, index) for index in range(cut.num_samples)]
    return Rows(
        np.stack([sample.tokens_s for sample in samples]),
        np.stack([sample.documents_s for sample in samples]),
        np.arange(5, 5 + len(samples)),
        np.stack([sample.parts_s for sample in samples if sample.parts_s is not None]),
    )


def test_only_what_is_asked_is_learned(tmp_path: Path) -> None:
    batch = instruct(packed(tmp_path, 12), reset_attention=False)
    no = IGNORED
    assert batch.tokens_bs.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0]]
    assert batch.labels_bs.tolist() == [[no, 3, 4, no, 6, 7, no, 9, no, 11, no, no]]
    assert batch.positions_bs.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 0]]
    assert batch.documents_bs is not None
    assert batch.documents_bs.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, -1]]
    assert batch.rows_bs.tolist() == [[5 * 12 + place for place in range(12)]]
    assert batch.loss_scale == 1.0


@pytest.mark.parametrize("model", [GPT2_UNTIED, LLAMA])
def test_records_of_a_sample_do_not_see_one_another(tmp_path: Path, model: str) -> None:
    dropouts = {"attention_dropout": 0.0} if model == LLAMA else {}
    built = build_model(run_file(model, model=dropouts), Mesh.alone())

    def loss(rows: Rows) -> float:
        batch = instruct(rows, reset_attention=False)
        flow: torch.Tensor | None = None
        for block in built.blocks():  # type: ignore[operator]
            flow = block(flow, batch)
        assert flow is not None
        return flow.item()

    rows = packed(tmp_path, 12)
    assert rows.parts_bs is not None
    alone = 0.0
    for first, last in ((0, 4), (4, 9), (9, 11)):
        part = slice(first, last)
        documents = np.zeros((1, last - first), np.int32)
        alone += loss(Rows(rows.tokens_bs[:, part], documents, rows.samples_b, rows.parts_bs[:, part]))
    assert loss(rows) == pytest.approx(alone, rel=1e-12)


def test_plain_text_is_refused() -> None:
    rows = Rows(np.zeros((1, 5), np.int64), np.zeros((1, 5), np.int32), np.zeros(1, np.int64))
    with pytest.raises(UserError, match=r"objective\.name=instruct needs records"):
        instruct(rows, reset_attention=True)
