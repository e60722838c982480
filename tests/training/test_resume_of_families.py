"""Oracle: one uninterrupted process; a run that goes on at another layout must have its loss and norm columns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.loop import train_on
from tests.ranks import RankPool
from tests.training.test_loop import assert_goes_on
from tests.verify import encoder_decoder_runs, encoder_runs
from tests.verify.encoder_decoder_runs import BART, T5, tokenizer_of_numbers
from tests.verify.encoder_runs import BERT, ELECTRA, PAIRS, REPLACED
from tests.verify.multitask_runs import BERT as NAMED_BERT
from tests.verify.multitask_runs import multitask, tasks_for_a_decoder, tasks_for_an_encoder
from tests.verify.pairs_corpus import write_pairs_corpus
from tests.verify.runs import LLAMA, VOCAB_SIZE

RUNS: dict[str, Callable[..., RunConfig]] = {
    "bert": lambda folder, **sections: encoder_runs.run_file(
        BERT, PAIRS, write_pairs_corpus(folder, VOCAB_SIZE), **sections
    ),
    "electra": lambda folder, **sections: encoder_runs.run_file(
        ELECTRA, REPLACED, write_pairs_corpus(folder, VOCAB_SIZE), **sections
    ),
    "t5": lambda folder, **sections: encoder_decoder_runs.run_file(T5, tokenizer_of_numbers(folder), **sections),
    "bart": lambda folder, **sections: encoder_decoder_runs.run_file(BART, tokenizer_of_numbers(folder), **sections),
    "tasks on a trunk": lambda folder, **sections: multitask(NAMED_BERT, tasks_for_an_encoder(folder), **sections),
    "tasks with models": lambda folder, **sections: multitask(
        LLAMA, tasks_for_a_decoder(folder), objective={"sharing": "soft", "soft_penalty": 0.1}, **sections
    ),
}
TP, TP_PP, DP = {"layout": {"tp": 2}}, {"layout": {"tp": 2, "pp": 2}}, {"layout": {"dp": 2}}
ZERO_3: dict[str, Any] = {**DP, "zero": {"stage": 3}}


class Runs:
    """The runs of a family in folders of their own, and the one that nothing interrupts, done once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def config(self, name: str, run_dir: Path, **sections: Any) -> RunConfig:
        data = self._folder / name
        data.mkdir(exist_ok=True)
        train = {"steps": 4, "micro_batch_size": 4, "eval_every": 0, **sections.pop("train", {})}
        return RUNS[name](data, run={"dir": str(run_dir)}, train=train, **sections)

    def uninterrupted(self, name: str) -> Path:
        run_dir = self._folder / name / "alone"
        if not run_dir.exists():
            config = self.config(name, run_dir, checkpoint={"every": 0})
            train_on(config, Mesh.alone(ledger=Ledger()), "alone")
        return run_dir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("bert", DP, TP),
        ("bert", TP_PP, {}),
        ("electra", ZERO_3, TP),
        ("electra", TP_PP, {}),
        ("t5", ZERO_3, TP),
        ("t5", TP_PP, {}),
        ("bart", {"layout": {"pp": 2}}, DP),
        ("tasks on a trunk", DP, TP),
        ("tasks on a trunk", TP_PP, {}),
        ("tasks with models", ZERO_3, TP),
        ("tasks with models", TP_PP, {}),
    ],
    ids=str,
)
def test_a_run_goes_on_at_another_layout(
    ranks: RankPool, runs: Runs, tmp_path: Path, name: str, first: dict[str, Any], then: dict[str, Any]
) -> None:
    """Saved in the middle with optimizer state, which the loss sees two steps later."""
    saved, second = (runs.config(name, tmp_path, **each) for each in ({**first, "train": {"stop_after": 2}}, then))
    assert_goes_on(ranks, saved, second, runs.uninterrupted(name))
