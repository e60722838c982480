"""Oracle: the tokens of the corpus laid out by hand, and rows read one at a time."""

import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.own_dataset import ByteWindows, python_manual
from megalm.data.config import Corpus, DataConfig
from megalm.data.indexed import token_dtype
from megalm.data.indexed_writer import IndexedWriter
from megalm.data.loader import Rows, TrainingData, ValidationData
from megalm.data.meta import Meta
from megalm.errors import UserError

S = 8
TOKENIZER = '{"model": {"vocab": {"a": 0}}}'


def write_pair(prefix: Path, lengths: list[int], first: int = 0) -> Path:
    """Documents of consecutive token ids: the id of a token is its position, plus ``first``."""
    with IndexedWriter(prefix, token_dtype(1000)) as writer:
        for length in lengths:
            writer.add_document(np.arange(first, first + length))
            first += length
    return prefix


def write_directory(directory: Path, train: list[int], validation: list[int], digest: str = "d") -> Path:
    directory.mkdir()
    write_pair(directory / "train", train)
    write_pair(directory / "validation", validation, first=500)
    counts: dict[str, Any] = {
        "train_documents": 1,
        "train_tokens": 1,
        "validation_documents": 1,
        "validation_tokens": 1,
    }
    meta = Meta(format=1, vocab_size=900, eos_token="e", eos_id=0, dtype="uint16", tokenizer_digest=digest, **counts)
    (directory / "meta.json").write_text(meta.model_dump_json())
    return directory


def config(*paths: Path | str, weights: tuple[float, ...] = (), **keys: object) -> DataConfig:
    train = [
        {"path": str(path), "weight": weight} for path, weight in zip(paths, weights or [1.0] * len(paths), strict=True)
    ]
    return DataConfig.model_validate({"train": train, **keys})


def training(data: DataConfig, batch: int = 4, seed: int = 1, vocab_size: int = 1000) -> TrainingData:
    return TrainingData(data, seq_length=S, global_batch_size=batch, seed=seed, vocab_size=vocab_size)


def held_out(data: DataConfig, batch: int = 4) -> ValidationData:
    return ValidationData(data, seq_length=S, global_batch_size=batch, vocab_size=1000)


def test_an_epoch_holds_every_window_once_and_its_offset_moves(tmp_path: Path) -> None:
    data = training(config(write_pair(tmp_path / "a", [200])))
    windows, spare = 24, 7
    offsets = set()
    for epoch in range(12):
        rows = [data.rows(0, epoch * windows + index, 1).tokens_bs[0] for index in range(windows)]
        starts = sorted(int(row[0]) for row in rows)
        assert all((row == np.arange(row[0], row[0] + S + 1)).all() for row in rows)
        assert starts == list(range(starts[0], starts[0] + windows * S, S))
        offsets.add(starts[0])
    assert len(offsets) > 4
    assert offsets <= set(range(spare + 1))


def test_rows_do_not_depend_on_how_the_batch_is_cut(tmp_path: Path) -> None:
    data = config(write_pair(tmp_path / "a", [30] * 9), write_pair(tmp_path / "b", [100]), weights=(0.7, 0.3))
    whole = training(data, batch=12)
    for step in (0, 5, 1000):
        rows = whole.rows(step, 0, 12)
        assert rows.samples_b.tolist() == list(range(12 * step, 12 * step + 12))
        for parts in (2, 3, 12):
            fresh = training(data, batch=12)
            cut = [fresh.rows(step, first, 12 // parts) for first in reversed(range(0, 12, 12 // parts))][::-1]
            for name in ("tokens_bs", "documents_bs", "samples_b"):
                assert (np.concatenate([getattr(part, name) for part in cut]) == getattr(rows, name)).all()


def test_shapes_and_types(tmp_path: Path) -> None:
    data = training(config(write_pair(tmp_path / "a", [100])))
    for count in (0, 3):
        rows = data.rows(2, 1, count)
        assert isinstance(rows, Rows)
        assert (rows.tokens_bs.shape, rows.tokens_bs.dtype.name) == ((count, S + 1), "int64")
        assert (rows.documents_bs.shape, rows.documents_bs.dtype.name) == ((count, S + 1), "int32")
        assert (rows.samples_b.shape, rows.samples_b.dtype.name) == ((count,), "int64")


def test_documents_are_numbered_within_a_row(tmp_path: Path) -> None:
    lengths = [3, 1, 2, 5, 15, 1, 1, 30]
    of_token = np.repeat(np.arange(len(lengths)), lengths)
    rows = training(config(write_pair(tmp_path / "a", lengths)), batch=7).rows(0, 0, 7)
    for tokens, documents in zip(rows.tokens_bs, rows.documents_bs, strict=True):
        assert (documents == of_token[tokens] - of_token[tokens[0]]).all()
    assert rows.documents_bs.max() > 1


def test_the_seed_and_the_weights_count(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path / "a", [400]), write_pair(tmp_path / "b", [400], first=500)
    one, other = (training(config(a), seed=seed).rows(0, 0, 4).tokens_bs for seed in (1, 2))
    assert (one != other).any()
    rows = training(config(a, b, weights=(3, 1)), batch=400).rows(0, 0, 400)
    assert int((rows.tokens_bs[:, 0] >= 500).sum()) == 100


def test_validation_reads_every_held_out_window_once(tmp_path: Path) -> None:
    directories = [write_directory(tmp_path / name, [100], [40, 44]) for name in "ab"]
    data = held_out(config(*directories, write_pair(tmp_path / "c", [100])), batch=4)
    assert data.num_samples == 2 * 10
    rows = [data.rows(index // 4, index % 4, 1).tokens_bs[0] for index in range(20)]
    assert sorted(int(row[0]) for row in rows) == sorted([*range(500, 580, S), *range(500, 580, S)])
    assert [int(row[0]) for row in rows] != sorted(int(row[0]) for row in rows)
    with pytest.raises(IndexError):
        data.rows(4, 3, 2)


def test_what_is_held_out_may_be_named_or_nothing(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "a", [100], [])
    pair = write_pair(tmp_path / "b", [100], first=300)
    assert held_out(config(directory)).num_samples == 0
    assert held_out(config(pair)).num_samples == 0
    assert held_out(config(directory)).rows(0, 0, 0).tokens_bs.shape == (0, S + 1)
    assert held_out(config(pair, validation=[])).num_samples == 0
    named = held_out(config(directory, validation=[str(pair)]))
    assert named.num_samples == 12
    assert named.rows(0, 0, 4).tokens_bs.min() >= 300


def test_an_own_source_is_read_whole_each_epoch() -> None:
    length = 2048
    data = TrainingData(
        config("examples.own_dataset:python_manual"), seq_length=length, global_batch_size=4, seed=1, vocab_size=256
    )
    source = python_manual(length, 1)
    samples = [bytes(source[index]) for index in range(len(source))]
    assert len(samples) > 100
    for epoch in range(2):
        rows = data.rows(0, epoch * len(source), len(source))
        assert sorted(bytes(row) for row in rows.tokens_bs.astype(np.uint8)) == sorted(samples)
        assert not rows.documents_bs.any()
    manual = (Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py").read_bytes()
    assert samples[0] + samples[1][1:] == manual[: 2 * length + 1]


def test_the_example_counts_its_windows(tmp_path: Path) -> None:
    for size, samples in ((1, 0), (S, 0), (S + 1, 1), (2 * S, 1), (2 * S + 1, 2)):
        path = tmp_path / "text"
        path.write_bytes(bytes(range(size)))
        windows = ByteWindows(path, S)
        assert len(windows) == samples
        assert all(len(windows[index]) == S + 1 for index in range(samples))


class Samples(list[NDArray[np.generic]]):
    """A source made of a list."""


def odd_sources() -> list[tuple[Callable[[int, int], Samples], str]]:
    """Sources with a mistake, and what must be said."""
    return [
        (lambda length, seed: Samples(), "too short for one sample of 9 tokens"),
        (lambda length, seed: Samples([np.zeros(length, np.int64)]), r"sample 0 is int64 \[8\]; give 9 integers"),
        (lambda length, seed: Samples([np.zeros(length + 1)]), r"sample 0 is float64 \[9\]; give 9 integers"),
        (lambda length, seed: Samples([np.full(length + 1, 1000)]), "holds token id 1000, model.vocab_size is 1000"),
        (lambda length, seed: Samples([np.full(length + 1, -3)]), "holds token id -3"),
    ]


@pytest.mark.parametrize(("source", "message"), odd_sources())
def test_an_odd_source_is_refused(
    monkeypatch: pytest.MonkeyPatch, source: Callable[[int, int], Samples], message: str
) -> None:
    monkeypatch.setattr("examples.own_dataset.python_manual", source)
    with pytest.raises(UserError, match=message):
        training(config("examples.own_dataset:python_manual")).rows(0, 0, 1)


def test_bad_corpora_are_refused(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "a", [100])
    with pytest.raises(UserError, match=r"data\.train\.0\.path: \S+gone is not there; name a directory"):
        training(config(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"is one file of a pair; name the prefix \S+/a, without extension"):
        training(config(tmp_path / "a.bin"))
    with pytest.raises(UserError, match=r"data\.train\.1\.path: \S+short is too short for one sample of 9 tokens"):
        training(config(pair, write_pair(tmp_path / "short", [S])))
    with pytest.raises(UserError, match=r"data\.train\.0\.path: \S+empty is too short"):
        training(config(write_pair(tmp_path / "empty", [])))
    with pytest.raises(UserError, match=r"holds token id 99, model\.vocab_size is 99"):
        training(config(pair), vocab_size=99)
    with pytest.raises(UserError, match="cannot import 'nowhere_to_be_found'"):
        training(config("nowhere_to_be_found:source"))
    (tmp_path / "a.bin").unlink()
    with pytest.raises(UserError, match=r"a\.bin is missing though a\.idx is there"):
        training(config(pair))


def test_bad_directories_are_refused(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "d", [100], [])
    with pytest.raises(
        UserError, match=r"vocabulary of 900, model\.vocab_size is 899; set model\.vocab_size to 900 or more"
    ):
        training(config(directory), vocab_size=899)
    (directory / "meta.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match=r"meta\.json has format 2, this megalm reads 1"):
        training(config(directory))
    (directory / "meta.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"meta\.json cannot be read"):
        training(config(directory))
    (directory / "meta.json").unlink()
    with pytest.raises(UserError, match=r"d has no meta\.json"):
        training(config(directory))
    (directory / ".prepare").mkdir()
    with pytest.raises(UserError, match="d is not finished; run the same"):
        training(config(directory))


def test_corpora_of_different_tokenizers_are_refused(tmp_path: Path) -> None:
    one, other = write_directory(tmp_path / "a", [100], []), write_directory(tmp_path / "b", [100], [], digest="other")
    with pytest.raises(UserError, match="b was made with another tokenizer than"):
        training(config(one, other))
    with pytest.raises(UserError, match="b was made with another tokenizer than"):
        held_out(config(one, validation=[str(other)]))
    (tmp_path / "tokenizer.json").write_text(TOKENIZER)
    with pytest.raises(UserError, match=r"a was made with another tokenizer than \S+tokenizer\.json"):
        training(config(one, tokenizer=str(tmp_path / "tokenizer.json")))
    with pytest.raises(UserError, match=r"gone\.json cannot be read as a tokenizer\.json"):
        training(config(one, tokenizer=str(tmp_path / "gone.json")))


def test_the_section() -> None:
    data = DataConfig.model_validate({"train": [{"path": "a", "weight": 2}]})
    assert (data.train, data.tokenizer, data.reset_attention) == ([Corpus(path="a", weight=2.0)], None, False)
    for key, value in (("weight", 0), ("weigth", 1), ("weight", "1")):
        with pytest.raises(ValueError, match="validation error"):
            DataConfig.model_validate({"train": [{"path": "a", key: value}]})
    with pytest.raises(UserError, match="data is missing"):
        DataConfig.model_validate({}).check("data")
    with pytest.raises(UserError, match=r"data\.train must be a list of 1 or more"):
        DataConfig.model_validate({"train": []}).check("data")


def test_the_tokenizer_of_the_data(tmp_path: Path) -> None:
    assert config(tmp_path).tokenizer_path() is None
    (tmp_path / "tokenizer.json").write_text(TOKENIZER)
    assert config(tmp_path / "gone", tmp_path).tokenizer_path() == tmp_path / "tokenizer.json"
    assert config(tmp_path, tokenizer="other.json").tokenizer_path() == Path("other.json")
