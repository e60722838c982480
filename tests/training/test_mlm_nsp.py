"""Oracle: a tokenizer with known ids, and refusals in one sentence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from megalm.batch import IGNORED, MicroBatch
from megalm.errors import UserError
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.feed import Feed, cut_of, objective_of
from megalm.validation import validate
from tests.verify.pairs_corpus import write_pairs_corpus
from tests.verify.runs import VOCAB_SIZE, windows_of

EOS, PAD, CLS, SEP, MASK = range(VOCAB_SIZE - 5, VOCAB_SIZE)
S = 21


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pairs_corpus(Path(tmp_path_factory.mktemp("pairs")), VOCAB_SIZE)


def run_of(corpus: tuple[str, str | None], objective: dict[str, Any], family: str = "bert") -> RunConfig:
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": VOCAB_SIZE}
    path, tokenizer = corpus
    tree = {
        "model": {"family": family, **sizes},
        "objective": {"name": "mlm_nsp", **objective},
        "data": {"train": [{"path": path}], "tokenizer": tokenizer},
        "train": {"seq_length": S, "global_batch_size": 8, "micro_batch_size": 8},
    }
    return validate(RunConfig, tree)


def batch_of(config: RunConfig, step: int = 0) -> MicroBatch:
    (batch,) = Feed(config, Mesh.alone(), windows_of(config), objective_of(config)).training_step(step)
    return batch


def test_pairs_of_a_corpus(corpus: tuple[str, str]) -> None:
    config = run_of(corpus, {"nsp_weight": 0.5})
    batches = [batch_of(config, step) for step in range(6)]
    for batch in batches:
        assert batch.documents_bs is not None
        assert batch.segments_bs is not None
        real, asked = batch.documents_bs >= 0, batch.labels_bs != IGNORED
        assert (batch.tokens_bs[:, 0] == CLS).all()
        assert (((batch.tokens_bs == SEP).sum(1)) == 2).all()
        assert (batch.tokens_bs[~real] == PAD).all()
        assert not (batch.tokens_bs == EOS).any()
        assert (batch.labels_bs[asked] < EOS).all()  # no label is a special token
        assert not asked[~real].any()
        assert batch.loss_scale == 1 / int(asked.sum())
        assert batch.class_loss_scale == 0.5 / 8
        ends = [int(place) for place in (batch.segments_bs == 1).float().argmax(1)]
        assert all(batch.tokens_bs[sample, end - 1] == SEP for sample, end in enumerate(ends))
    classes = torch.cat([batch.classes_b for batch in batches if batch.classes_b is not None])
    assert set(classes.tolist()) == {0, 1}
    assert (torch.cat([batch.tokens_bs for batch in batches]) == MASK).any()


def test_running_texts_of_a_corpus(corpus: tuple[str, str]) -> None:
    batch = batch_of(run_of(corpus, {"nsp": False, "noise_density": 0.5}))
    assert (batch.tokens_bs[:, 0] == CLS).all()
    assert (batch.tokens_bs[:, -1] == SEP).all()
    assert batch.classes_b is None
    assert ((batch.labels_bs != IGNORED).sum(1) >= (S - 2 - 2) // 2).all()


def test_running_texts_whose_tokens_are_judged(corpus: tuple[str, str]) -> None:
    config = run_of(corpus, {"name": "rtd", "noise_density": 0.5}, family="electra")
    batch = batch_of(config)
    assert (batch.tokens_bs[:, 0] == CLS).all()
    assert batch.judged_bs is not None
    assert batch.judged_bs.all()
    asked = batch.labels_bs != IGNORED
    assert set(batch.tokens_bs[asked & (batch.tokens_bs != batch.labels_bs)].tolist()) == {MASK}
    assert (batch.loss_scale, batch.judged_loss_scale) == (1 / int(asked.sum()), 50.0 / (8 * S))


def test_words_are_those_of_the_tokenizer(tmp_path: Path, corpus: tuple[str, str]) -> None:
    """With letters for tokens, all of a text without special tokens is one word."""
    letters = {f"a{number}": number for number in range(EOS)}
    tokenizer = Tokenizer(models.WordLevel(letters, "a0"))
    tokenizer.add_special_tokens(["<|endoftext|>", "[PAD]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = run_of((corpus[0], str(tmp_path / "tokenizer.json")), {"nsp": False, "whole_word": True})
    asked = batch_of(config).labels_bs != IGNORED
    assert any(all(row[1:-1]) for row in asked.tolist())


def test_a_tokenizer_without_the_tokens_is_refused(tmp_path: Path, corpus: tuple[str, str]) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[CLS]": 1, "[SEP]": 2}, "a"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = run_of((corpus[0], str(tmp_path / "tokenizer.json")), {})
    with pytest.raises(UserError, match="has no mask token"):
        objective_of(config)
    with pytest.raises(UserError, match="has no pad token"):
        cut_of(config)
    with pytest.raises(UserError, match="No tokenizer says which ids are special tokens"):
        objective_of(run_of((corpus[0], None), {}))
