"""Oracle: megatron-core 0.16.1's IndexedDataset and its builder; and arrays kept in memory."""

import importlib.util
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from megalm.data.indexed import IndexedTokens, token_dtype
from megalm.data.indexed_writer import IndexedWriter
from megalm.errors import UserError

DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12], [1, 0]]


@pytest.fixture
def megatron(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of megatron-core that reads and builds the format, without the imports of the rest of megatron."""
    spec = importlib.util.find_spec("megatron")
    assert spec is not None, "pip install --no-deps megatron-core==0.16.1"
    [root] = spec.submodule_search_locations or []
    for name in [name for name in sys.modules if name.split(".")[0] == "megatron"]:
        monkeypatch.delitem(sys.modules, name)
    for name, path in (("megatron", root), ("megatron.core", f"{root}/core")):
        package = ModuleType(name)
        package.__path__ = [path]
        monkeypatch.setitem(sys.modules, name, package)
    logging = ModuleType("megatron.core.utils")
    logging.log_single_rank = lambda *_: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "megatron.core.utils", logging)
    yield importlib.import_module("megatron.core.datasets.indexed_dataset")
    for name in [name for name in sys.modules if name.split(".")[0] == "megatron"]:
        del sys.modules[name]


def write(prefix: Path, documents: list[list[int]], vocab_size: int = 100) -> Path:
    with IndexedWriter(prefix, token_dtype(vocab_size)) as writer:
        for document in documents:
            writer.add_document(np.array(document, np.int64))
    return prefix


@pytest.mark.parametrize("vocab_size", [65_499, 65_500])
def test_megatron_reads_what_we_write(tmp_path: Path, megatron: Any, vocab_size: int) -> None:
    documents = [*DOCUMENTS, [vocab_size - 1]]
    theirs = megatron.IndexedDataset(str(write(tmp_path / "ours.v1", documents, vocab_size)))
    assert theirs.index.dtype == megatron.DType.optimal_dtype(vocab_size)
    assert [theirs[index].tolist() for index in range(len(theirs))] == documents
    assert theirs.document_indices.tolist() == [0, 1, 2, 3, 4, 5]


def test_megatron_reads_the_parts_that_we_write(tmp_path: Path, megatron: Any) -> None:
    documents = [[(0, [5, 6]), (1, [7])], [(2, [8])], [(0, []), (1, [9, 10])]]
    for prefix, some in (("a", documents[:2]), ("b", documents[2:])):
        with IndexedWriter(tmp_path / prefix, token_dtype(100)) as writer:
            for parts in some:
                writer.add_parts([(mode, np.array(tokens, np.int64)) for mode, tokens in parts])
    with IndexedWriter(tmp_path / "all", token_dtype(100)) as writer:
        writer.add_corpus(IndexedTokens(tmp_path / "a"))
        writer.add_corpus(IndexedTokens(tmp_path / "b"))
    ours = IndexedTokens(tmp_path / "all")
    assert [[(mode, tokens.tolist()) for mode, tokens in ours.parts(index)] for index in range(3)] == documents
    theirs = megatron.IndexedDataset(str(tmp_path / "all"), multimodal=True)
    read = [(theirs[index][1], theirs[index][0].tolist()) for index in range(len(theirs))]
    assert read == [part for document in documents for part in document]
    assert theirs.document_indices.tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint16])
@pytest.mark.parametrize("multimodal", [False, True])
def test_we_read_what_megatron_writes(tmp_path: Path, megatron: Any, dtype: type, multimodal: bool) -> None:
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype, multimodal)
    builder.add_document(np.array([5, 6, 7, 8, 9]), [2, 3], [0, 0] if multimodal else None)
    builder.add_item(torch.tensor([10, 11]))
    builder.add_item(torch.tensor([12]))
    builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    ours = IndexedTokens(tmp_path / "theirs")
    assert (ours.num_documents, ours.num_sequences, ours.num_tokens) == (2, 4, 8)
    assert [ours.document(index).tolist() for index in range(2)] == [[5, 6, 7, 8, 9], [10, 11, 12]]
    assert ours.document_lengths().tolist() == [5, 3]
    assert ours.documents(1, 7).tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_our_file_is_megatrons_to_the_byte(tmp_path: Path, megatron: Any) -> None:
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), np.uint16)
    for document in DOCUMENTS:
        builder.add_document(np.array(document), [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    write(tmp_path / "ours", DOCUMENTS)
    for kind in ("bin", "idx"):
        assert (tmp_path / f"ours.{kind}").read_bytes() == (tmp_path / f"theirs.{kind}").read_bytes()


def test_documents_of_every_span(tmp_path: Path) -> None:
    documents = [[1], [], [2, 3], [], [], [4, 5, 6], []]
    corpus = IndexedTokens(write(tmp_path / "a", documents))
    of_token = [index for index, document in enumerate(documents) for _ in document]
    for start in range(len(of_token)):
        for count in range(1, len(of_token) - start + 1):
            span = of_token[start : start + count]
            expected = [sorted(set(span)).index(document) for document in span]
            assert corpus.documents(start, count).tolist() == expected


def test_corpora_are_joined(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", DOCUMENTS[:2]), write(tmp_path / "b", [*DOCUMENTS[2:], []])
    with IndexedWriter(tmp_path / "c", token_dtype(100)) as writer:
        for prefix in (first, second):
            writer.add_corpus(IndexedTokens(prefix))
    whole = write(tmp_path / "d", [*DOCUMENTS, []])
    assert (tmp_path / "c.idx").read_bytes() == whole.with_suffix(".idx").read_bytes()
    assert (tmp_path / "c.bin").read_bytes() == whole.with_suffix(".bin").read_bytes()


def test_an_empty_pair(tmp_path: Path) -> None:
    corpus = IndexedTokens(write(tmp_path / "a", []))
    assert (corpus.num_tokens, corpus.num_documents, len(corpus.tokens(0, 9))) == (0, 0, 0)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with IndexedWriter(tmp_path / "a", token_dtype(100)) as writer:
            writer.add_document(np.array([1]))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit uint16"):
        write(tmp_path / "a", [[65_536]])
    with pytest.raises(UserError, match="does not fit uint16"):
        write(tmp_path / "a", [[-1]])


def broken_pairs() -> list[tuple[str, str, Any, str]]:
    """Name, extension, how to break that file, and what must be said."""
    return [
        ("bin missing", "bin", None, r"a\.bin is missing though a\.idx is there"),
        ("idx missing", "idx", None, r"a\.idx is missing though a\.bin is there"),
        ("bin truncated", "bin", lambda data: data[:-1], r"a\.bin is truncated: 19 bytes where the index says 20"),
        ("bin empty", "bin", lambda data: b"", r"a\.bin is truncated"),
        ("bin too long", "bin", lambda data: data + b"xx", r"a\.bin is not the one of its \.idx"),
        ("idx truncated", "idx", lambda data: data[:-9], r"a\.idx is truncated"),
        ("idx header only", "idx", lambda data: data[:20], r"a\.idx is truncated"),
        ("idx empty", "idx", lambda data: b"", r"not an index of tokens"),
        ("idx too long", "idx", lambda data: data + b"x", r"a\.idx is longer than it says"),
        ("magic", "idx", lambda data: b"X" + data[1:], r"not an index of tokens"),
        ("version", "idx", lambda data: data[:9] + struct.pack("<Q", 2) + data[17:], r"version 2"),
        ("unknown type", "idx", lambda data: data[:17] + b"\x09" + data[18:], r"element type 9"),
        ("float type", "idx", lambda data: data[:17] + b"\x07" + data[18:], r"element type 7"),
    ]


@pytest.mark.parametrize(("name", "extension", "change", "message"), broken_pairs(), ids=lambda value: str(value)[:15])
def test_a_broken_pair_is_refused(tmp_path: Path, name: str, extension: str, change: Any, message: str) -> None:
    write(tmp_path / "a", DOCUMENTS)
    path = tmp_path / f"a.{extension}"
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        IndexedTokens(tmp_path / "a")
