"""Oracle: tokenizers with known ids, and refusals in one sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from megalm.batch import IGNORED
from megalm.data.loader import Rows, TrainingData
from megalm.data.prepare import prepare
from megalm.data.special_tokens import NAMED_SETS, SpecialTokens
from megalm.errors import UserError
from megalm.run_config import RunConfig
from megalm.training.feed import cut_of, objective_of
from megalm.training.seq2seq import ends_of_sentences, seq2seq
from megalm.validation import validate
from tests.objectives.tokenizer import write_tokenizer

WORDS = ["one", "two", "three.", "four", 'five!"', "six\n\n  ", ". ", "seven?"]
EOS, PAD, SENTINEL = 8, 9, 10


def tokenizer_with(folder: Path, *special: str) -> Path:
    return write_tokenizer(folder, WORDS, special)


def run_of(tokenizer: Path | None, length: int = 40, /, **sections: dict[str, Any]) -> RunConfig:
    tree: dict[str, dict[str, Any]] = {
        "model": {
            "family": "some:model",
            "num_hidden_layers": 2,
            "hidden_size": 8,
            "num_attention_heads": 2,
            "vocab_size": 200,
        },
        "objective": {"name": "seq2seq"},
        "data": {"train": [{"path": "own:source"}], "tokenizer": None if tokenizer is None else str(tokenizer)},
        "train": {"seq_length": length},
    }
    for name, fields in sections.items():
        tree[name] = {**tree[name], **fields}
    return validate(RunConfig, tree)


@pytest.fixture
def t5(tmp_path: Path) -> Path:
    return tokenizer_with(tmp_path, "</s>", *NAMED_SETS["t5"])


def rows_of(length: int) -> Rows:
    tokens = np.arange(2 * (length + 1)).reshape(2, length + 1) % 7
    return Rows(tokens, np.zeros_like(tokens, np.int32), np.array([4, 5]))


def test_spans(t5: Path) -> None:
    batch = objective_of(run_of(t5))(rows_of(40), reset_attention=False)
    assert batch.source is not None
    assert batch.source.tokens_bs.shape == (2, 40 - 6 + 2 + 1)
    assert batch.tokens_bs.shape == (2, 6 + 2 + 1)
    assert batch.tokens_bs[:, :2].tolist() == [[PAD, SENTINEL]] * 2
    assert batch.labels_bs[:, [0, -1]].tolist() == [[SENTINEL, EOS]] * 2
    assert batch.source.tokens_bs[:, -2:].tolist() == [[SENTINEL + 1, EOS]] * 2
    assert batch.source.documents_bs is None
    assert (batch.labels_bs != IGNORED).all()
    assert batch.rows_bs[:, 0].tolist() == [4 * (40 - 6 + 2 + 1), 5 * (40 - 6 + 2 + 1)]


def test_keys_change_the_spans(t5: Path) -> None:
    config = run_of(t5, objective={"noise_density": 0.5, "mean_span_length": 4.0}, model={"decoder_start_token_id": 7})
    batch = objective_of(config)(rows_of(40), reset_attention=False)
    assert batch.tokens_bs.shape == (2, 20 + 5 + 1)
    assert batch.tokens_bs[:, 0].tolist() == [7, 7]


def test_denoising(tmp_path: Path) -> None:
    bart = tokenizer_with(tmp_path, *NAMED_SETS["bart"])
    first, pad, end, mask = range(8, 12)
    objective = {"seq2seq": "denoising", "noise": ["infill"]}
    batch = objective_of(run_of(bart, objective=objective))(rows_of(40), reset_attention=False)
    assert batch.source is not None
    assert batch.tokens_bs[0].tolist() == [pad, first, *(np.arange(40) % 7)]
    assert batch.labels_bs[0].tolist() == [first, *(np.arange(40) % 7), end]
    assert set(batch.source.tokens_bs[:, 0].tolist()) == {first}
    assert mask in batch.source.tokens_bs
    assert batch.rows_bs[0, 0] == 4 * 42


def test_barts_decoder_starts_from_the_end_token_and_its_positions_must_suffice(tmp_path: Path) -> None:
    bart = tokenizer_with(tmp_path, *NAMED_SETS["bart"])
    model = {"family": "bart", "max_position_embeddings": 42}
    objective = {"seq2seq": "denoising", "noise": ["rotate"]}
    batch = objective_of(run_of(bart, model=model, objective=objective))(rows_of(40), reset_attention=False)
    assert batch.tokens_bs[:, 0].tolist() == [10, 10]
    with pytest.raises(UserError, match=r"sequences of 42 tokens, and model.max_position_embeddings=41 is less"):
        objective_of(run_of(bart, model={**model, "max_position_embeddings": 41}, objective=objective))


def test_where_sentences_end(t5: Path) -> None:
    special = SpecialTokens.of(t5)

    def ending(*ends: str) -> list[int]:
        return np.flatnonzero(ends_of_sentences(special, 200, ends)).tolist()

    assert ending(".") == [2, 5, 6, EOS]
    assert ending(".", '"') == [2, 4, 5, 6, EOS]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"reset_attention": True}}, "data.reset_attention has no effect with objective.name=seq2seq"),
        ({"train": {"seq_length": 1}}, "train.seq_length=1 leaves nothing to hide"),
        ({"train": {"seq_length": 4000}}, "has 100 sentinels .* where 200 are needed"),
        ({"objective": {"seq2seq": "denoising"}}, "has no mask token"),
        ({"data": {"tokenizer": None}}, "No tokenizer says which ids are special"),
    ],
)
def test_refusals(t5: Path, sections: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        seq2seq(run_of(t5, **sections))


def test_what_is_hidden_is_counted_by_the_masks_alone(tmp_path: Path) -> None:
    """Ways that hide nothing need no mask."""
    tokenizer = tokenizer_with(tmp_path, *NAMED_SETS["t5"], "</s>")
    objective = {"seq2seq": "denoising", "noise": ["permute", "delete", "rotate"]}
    batch = objective_of(run_of(tokenizer, objective=objective))(rows_of(40), reset_attention=False)
    assert batch.source is not None
    assert batch.source.tokens_bs.shape == (2, 29)


def test_pairs_of_records(tmp_path: Path) -> None:
    """Prepared, cut and read: the encoder reads the sources, the decoder says the targets, each as the text encodes."""
    records = [{"source": f"the word {number}", "target": f"is {number * number}"} for number in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    prepare([str(tmp_path / "pairs.jsonl")], tmp_path / "data", 400, records="pairs", special_tokens="t5", min_chars=1)
    data = {"train": [{"path": str(tmp_path / "data")}]}
    config = run_of(None, 40, objective={"seq2seq": "pairs"}, data=data, model={"vocab_size": 400})
    cut = cut_of(config)
    rows = TrainingData(config.data, seq_length=40, global_batch_size=8, seed=3, vocab_size=400, cut=cut).rows(0, 0, 8)
    batch = objective_of(config)(rows, reset_attention=False)
    tokenizer = Tokenizer.from_file(str(tmp_path / "data" / "tokenizer.json"))
    assert batch.source is not None
    known = {record["source"]: record["target"] for record in records}
    for read, said in zip(batch.source.tokens_bs.tolist(), batch.labels_bs.tolist(), strict=True):
        target = [token for token in said if token != IGNORED]
        assert known[tokenizer.decode(read)] == tokenizer.decode(target)
        assert target.count(target[-1]) == 1  # one end, not two
