"""Oracle: the samples as the source of the run gives them, read and hashed here."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from megalm.data.order import Place
from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.loop import train_on
from megalm.training.samples import FILE, SamplesFile
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, run_file, windows_of

STEPS, BATCH, LENGTH = 4, 12, 13


def run(folder: Path, steps: int, **layout: int) -> RunConfig:
    return run_file(
        GPT2,
        run={"dir": str(folder), "record_samples": True},
        layout=layout,
        train={"steps": STEPS, "stop_after": steps, "micro_batch_size": 5, "eval_every": 0},
        checkpoint={"every": 0},
    )


def on_ranks(context: RankContext, config: RunConfig) -> None:
    train_on(config, Mesh.build(config.layout, ledger=Ledger(), timeout_s=30), "on ranks")


def recorded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def expected(config: RunConfig) -> list[dict[str, Any]]:
    source = windows_of(config)
    found = []
    for step in range(STEPS):
        rows = source.rows(step, 0, BATCH)
        samples = []
        for row in range(BATCH):
            number = step * BATCH + row
            place = source.place(number)
            fed = np.concatenate([rows.tokens_bs[row, :-1], rows.tokens_bs[row, 1:]])
            where = {"corpus": place.corpus, "epoch": place.epoch, "window": place.window}
            tokens = hashlib.blake2b(fed.tobytes(), digest_size=8).hexdigest()
            samples.append({"sample": number, **where, "tokens": tokens})
        found.append({"step": step + 1, "samples": samples})
    return found


def test_each_step_names_what_all_ranks_were_fed(ranks: RankPool, tmp_path: Path) -> None:
    """Two layouts of four ranks, then a resume at another: one row a step, whoever read it."""
    ranks.run(4, on_ranks, run(tmp_path, 2, dp=2, tp=2))
    ranks.run(2, on_ranks, run(tmp_path, STEPS, pp=2))
    assert recorded(tmp_path) == expected(run(tmp_path, STEPS))


def test_what_was_not_saved_is_dropped(tmp_path: Path) -> None:
    place = Place(0, 0, 7)
    first = SamplesFile(tmp_path / FILE, 0)
    for step in (1, 2, 3):
        first.write(step, [((step, "ab"), place)])
    first.close()
    with (tmp_path / FILE).open("a") as torn:
        torn.write('{"step": 4, "sam')
    second = SamplesFile(tmp_path / FILE, 2)
    second.write(3, [((9, "cd"), place)])
    second.flush()
    second.close()
    assert [(row["step"], row["samples"][0]["sample"]) for row in recorded(tmp_path)] == [(1, 1), (2, 2), (3, 9)]
