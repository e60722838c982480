"""Oracle: documents crafted so that the fate of each is known, and the files decoded back to their texts."""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from megalm.cli.data import app
from megalm.data.bpe import train_bpe
from megalm.data.config import DataConfig
from megalm.data.files import whole_file
from megalm.data.indexed import IndexedTokens
from megalm.data.loader import TrainingData, ValidationData
from megalm.data.meta import read_meta
from megalm.data.options import Options
from megalm.data.prepare import prepare
from megalm.errors import UserError
from tests.data.corpus import files_of, prose, write_lines

TEXTS = [prose(seed) for seed in range(40)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "texts.jsonl", TEXTS)


def texts_of(directory: Path, split: str) -> list[str]:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    corpus = IndexedTokens(directory / split)
    documents = [corpus.document(index).tolist() for index in range(corpus.num_documents)]
    assert all(document[-1] == 0 and 0 not in document[:-1] for document in documents)
    return [tokenizer.decode(document[:-1]) for document in documents]


def test_every_document_has_the_fate_it_was_made_for(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    near = TEXTS[1].replace(TEXTS[1].split()[5], "changed", 1)
    files = {
        "00": TEXTS[0].encode(),
        "01": TEXTS[1].encode(),
        "02 latin": b"caf\xe9 " + TEXTS[2].encode(),
        "03 empty": b"",
        "04 blank": b" \n ",
        "05 short": b"too_short",
        "06 stop": b"a long enough text with a Forbidden word in it",
        "07 exact": TEXTS[0].encode(),
        "08 near": near.encode(),
        "09 composed": f"e\u0301t\u00e9 {TEXTS[3]}".encode(),
        "10 marked": b"\xef\xbb\xbf" + TEXTS[4].encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    lines = tmp_path / "x.jsonl"
    surrogate = json.dumps({"text": "lone \ud800 surrogate, long enough"}) + "\n"
    lines.write_text(surrogate + json.dumps({"text": TEXTS[0]}))
    (tmp_path / "stop.txt").write_text("forbidden\n")
    report = prepare([str(folder), str(lines)], tmp_path / "out", 300, stop_words=tmp_path / "stop.txt", validation=0.0)
    assert report.dropped == {
        "not_utf8": 2,
        "empty": 2,
        "too_short": 1,
        "stop_word": 1,
        "exact_duplicate": 2,
        "near_duplicate": 1,
    }
    assert (report.read, report.normalized, report.train_documents, report.validation_documents) == (13, 1, 4, 0)
    assert report.examples["near_duplicate"] == [str(folder / "08 near")]
    assert report.examples["exact_duplicate"] == [str(folder / "07 exact"), f"{lines} (byte {len(surrogate)})"]
    assert texts_of(tmp_path / "out", "train") == [TEXTS[0], TEXTS[1], f"\u00e9t\u00e9 {TEXTS[3]}", TEXTS[4]]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["dropped"] == report.dropped


def test_near_duplicates_can_be_kept(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.jsonl", [TEXTS[0], TEXTS[0] + " more", TEXTS[0]])
    report = prepare([str(source)], tmp_path / "out", 300, near_duplicates=0.0)
    assert (report.dropped["near_duplicate"], report.dropped["exact_duplicate"]) == (0, 1)
    report = prepare([str(source)], tmp_path / "out2", 300)
    assert (report.dropped["near_duplicate"], report.dropped["exact_duplicate"]) == (1, 1)


def test_the_splits_hold_all_texts_and_meta_says_so(source: Path, tmp_path: Path) -> None:
    report = prepare([str(source)], tmp_path / "out", 400, validation=0.3)
    train, validation = texts_of(tmp_path / "out", "train"), texts_of(tmp_path / "out", "validation")
    assert sorted(train + validation) == sorted(TEXTS)
    assert [text for text in TEXTS if text in train] == train
    assert 4 < len(validation) < 20
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["vocab_size"], meta["eos_id"], meta["eos_token"], meta["dtype"]) == (400, 0, "<|endoftext|>", "uint16")
    for split, texts in (("train", train), ("validation", validation)):
        assert meta[f"{split}_documents"] == getattr(report, f"{split}_documents") == len(texts)
        assert meta[f"{split}_tokens"] == IndexedTokens(tmp_path / "out" / split).num_tokens


def test_the_split_of_a_document_depends_on_its_text(tmp_path: Path) -> None:
    held: list[set[str]] = []
    for number, texts in enumerate((TEXTS, TEXTS[::-1], TEXTS[:20])):
        path = write_lines(tmp_path / f"{number}.jsonl", texts)
        prepare([str(path)], tmp_path / f"out{number}", 300, validation=0.3)
        held.append(set(texts_of(tmp_path / f"out{number}", "validation")))
    assert held[0] == held[1]
    assert held[2] == held[0] & set(TEXTS[:20])


@pytest.mark.parametrize(("count", "validation", "held"), [(1, 0.9, 0), (2, 0.0001, 1), (2, 0.9999, 1), (2, 0.0, 0)])
def test_both_splits_of_a_few_documents(tmp_path: Path, count: int, validation: float, held: int) -> None:
    report = prepare(
        [str(write_lines(tmp_path / "x.jsonl", TEXTS[:count]))], tmp_path / "out", 300, validation=validation
    )
    assert (report.train_documents, report.validation_documents) == (count - held, held)
    data = DataConfig.model_validate({"train": [{"path": str(tmp_path / "out")}]})
    shape: dict[str, Any] = {"seq_length": 16, "global_batch_size": 1, "vocab_size": 300}
    assert TrainingData(data, seed=0, **shape).rows(0, 0, 1).tokens_bs.max() < 300
    assert (ValidationData(data, **shape).num_samples > 0) is (held > 0)


def test_workers_and_shards_do_not_change_a_byte(source: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(prose(1000, 3000))
    sources = [str(source), str(tmp_path / "text.txt")]
    prepare(sources, tmp_path / "one", 400, validation=0.2)
    expected = files_of(tmp_path / "one")
    assert set(expected) == {
        *("train.bin", "train.idx", "validation.bin", "validation.idx"),
        *("tokenizer.json", "meta.json", "report.json"),
    }
    for number, (workers, shard_bytes) in enumerate([(1, 700), (2, 1500), (3, 1 << 20)]):
        output = tmp_path / f"out{number}"
        prepare(sources, output, 400, validation=0.2, workers=workers, shard_bytes=shard_bytes)
        assert files_of(output) == expected


def test_a_given_tokenizer_is_used_and_copied(source: Path, tmp_path: Path) -> None:
    prepare([str(source)], tmp_path / "one", 400)
    given = tmp_path / "one" / "tokenizer.json"
    report = prepare([str(source)], tmp_path / "two", tokenizer=given)
    assert report.vocab_size == 400
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    with pytest.raises(UserError, match="has 400 tokens, more than --vocab-size 300"):
        prepare([str(source)], tmp_path / "three", 300, given)


def test_the_tokenizer_learns_from_a_sample_of_the_training_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_lines(tmp_path / "x.jsonl", [prose(seed, 300) for seed in range(300)])
    learned: list[str] = []

    def learn(texts: Iterator[str], vocab_size: int, special_tokens: tuple[str, ...]) -> Tokenizer:
        learned.extend(texts)
        return train_bpe(learned, vocab_size, special_tokens)

    monkeypatch.setattr("megalm.data.token_shard.train_bpe", learn)
    monkeypatch.setattr(Options, "sample_bytes", lambda self: 100_000)
    prepare([str(source)], tmp_path / "out", 300, validation=0.3)
    assert set(learned) < set(texts_of(tmp_path / "out", "train"))
    assert 70_000 < sum(map(len, learned)) < 130_000


def test_a_finished_directory_is_not_made_again(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    report = prepare([str(source)], output, 400)
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert prepare([str(source)], output, 400, workers=2) == report
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
    with pytest.raises(
        UserError, match="out holds a corpus made otherwise; choose another --output, or --overwrite it"
    ):
        prepare([str(source)], output, 401)
    assert prepare([str(source)], output, 401, overwrite=True).vocab_size == 401
    source.write_text(source.read_text() + json.dumps({"text": prose(99)}) + "\n")
    with pytest.raises(UserError, match="made otherwise"):
        prepare([str(source)], output, 401)


def test_two_preparations_of_one_directory_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="is being prepared by another process"):
        prepare([str(source)], tmp_path / "out", 400)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 256}, "--vocab-size 256 is too small: byte-level BPE needs .* 257 in all"),
        ({}, "Give --vocab-size N"),
        ({"vocab_size": 300, "validation": 1.0}, "--validation 1.0"),
        ({"vocab_size": 300, "validation": -0.1}, "--validation -0.1"),
        ({"vocab_size": 300, "near_duplicates": 1.5}, "--near-duplicates 1.5"),
        ({"vocab_size": 300, "workers": 0}, "--workers 0"),
        ({"vocab_size": 300, "tokenizer_mib": 0}, "--tokenizer-mib 0"),
        ({"vocab_size": 300, "min_chars": 10**6}, "No document is left after cleaning: of 40 read, 40 too short"),
        ({"tokenizer": Path("gone.json")}, "gone.json is not there"),
        ({"vocab_size": 300, "stop_words": Path("gone.txt")}, "gone.txt: cannot read this stop-word list"),
    ],
)
def test_bad_options_are_refused(source: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare([str(source)], tmp_path / "out", **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_line_is_named_from_a_worker_too(tmp_path: Path, workers: int) -> None:
    source = write_lines(tmp_path / "x.jsonl", TEXTS)
    source.write_text(source.read_text() + "{broken\n")
    with pytest.raises(UserError, match=r"x\.jsonl, line 41 is not JSON"):
        prepare([str(source)], tmp_path / "out", 300, workers=workers, shard_bytes=2000)


@pytest.fixture
def disk_full_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the n-th file that is written from now on find the disk full."""
    sync = os.fsync

    def arm(number: int) -> None:
        written: list[int] = []

        def full(descriptor: int) -> None:
            written.append(descriptor)
            if len(written) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        monkeypatch.setattr("megalm.data.files.os.fsync", full)

    return arm


def test_a_full_disk_is_one_sentence_and_the_work_goes_on(
    source: Path, tmp_path: Path, disk_full_at: Callable[[int], None]
) -> None:
    output = tmp_path / "out"
    prepare([str(source)], tmp_path / "whole", 300, shard_bytes=4000)
    disk_full_at(9)
    with pytest.raises(UserError, match="out: the disk is full; free some space and run the same command to go on"):
        prepare([str(source)], output, 300, shard_bytes=4000)
    assert not (output / "meta.json").exists()
    assert not [path for path in (output / ".prepare").iterdir() if "partial" in path.name]
    prepare([str(source)], output, 300, shard_bytes=4000)
    assert files_of(output) == files_of(tmp_path / "whole")


def test_unfinished_work_of_other_options_is_not_used(
    source: Path, tmp_path: Path, disk_full_at: Callable[[int], None]
) -> None:
    output = tmp_path / "out"
    disk_full_at(9)
    with pytest.raises(UserError, match="disk is full"):
        prepare([str(source)], output, 300, shard_bytes=4000, min_chars=sorted(map(len, TEXTS))[20])
    prepare([str(source)], output, 300, shard_bytes=4000)
    prepare([str(source)], tmp_path / "whole", 300, shard_bytes=4000)
    assert files_of(output) == files_of(tmp_path / "whole")


def test_a_directory_that_is_being_replaced_is_not_complete(
    source: Path, tmp_path: Path, disk_full_at: Callable[[int], None]
) -> None:
    output = tmp_path / "out"
    prepare([str(source)], output, 300)
    disk_full_at(3)
    with pytest.raises(UserError, match="disk is full"):
        prepare([str(source)], output, 301, overwrite=True)
    with pytest.raises(UserError, match="out is not finished; run the same"):
        read_meta(output)


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def fail() -> None:
        with whole_file(tmp_path / "a") as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that this process may enter but not write, even where the tests run as root."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_lines(path / "x.jsonl", TEXTS[:3])
        path.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65_534)
        yield path
        os.seteuid(user)
        path.chmod(0o755)


@pytest.mark.parametrize("name", ["out", "deep/out"])
def test_no_permission_to_write(unprivileged: Path, name: str) -> None:
    with pytest.raises(UserError, match="no permission to write here; choose another --output"):
        prepare([str(unprivileged / "x.jsonl")], unprivileged / name, 300)


def test_an_output_below_a_file(source: Path) -> None:
    with pytest.raises(UserError, match="cannot write here"):
        prepare([str(source)], source / "out", 300)


def test_the_command(source: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["prepare", str(source), "--output", str(tmp_path / "out"), "--vocab-size", "300", "--workers", "1"],
    )
    assert result.exit_code == 0, result.output
    assert "40 documents read" in result.stdout
    assert "is ready; name it in data.train[].path" in result.stdout
    refused = CliRunner().invoke(app, ["prepare", str(source), "--output", str(tmp_path / "b"), "--vocab-size", "9"])
    assert isinstance(refused.exception, UserError)
