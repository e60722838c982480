"""Oracle: files written by the test, and the listing of the interpreter's own library."""

import json
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megalm.data.sources import RawDocument, Span, cut_into_shards, list_files, read_documents
from megalm.errors import UserError


def read_all(sources: list[str], shard_bytes: int) -> list[RawDocument]:
    shards = cut_into_shards(list_files(sources, Path("out")), shard_bytes)
    return [document for spans in shards for span in spans for document in read_documents(span)]


def lines_file(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_files_folders_and_lines_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name in ("folder/b.txt", "folder/a.md", "folder/deep/c", "single.txt"):
        (tmp_path / name).write_text(name)
    lines_file(tmp_path / "folder" / "z.jsonl", ["one", "two"])
    sources = [str(tmp_path / "single.txt"), str(tmp_path / "folder")]
    contents = [document.content for document in read_all(sources, 10)]
    assert contents == [b"single.txt", b"folder/a.md", b"folder/b.txt", b"folder/deep/c", "one", "two"]


def test_the_output_is_not_its_own_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "out" / ".prepare").mkdir(parents=True)
    (tmp_path / "out" / ".prepare" / "plan").write_text("plan")
    assert [file.path for file in list_files([str(tmp_path)], tmp_path / "out")] == [str(tmp_path / "a.txt")]


def test_python_stdlib_is_the_library_without_what_was_installed() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    names = [str(Path(file.path).relative_to(root)) for file in list_files(["python-stdlib"], Path("out"))]
    assert {"abc.py", "json/decoder.py", "email/message.py"} <= set(names)
    assert all(name.endswith(".py") and "site-packages" not in name for name in names)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=20), st.integers(1, 200))
def test_lines_are_read_once_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], shard_bytes: int
) -> None:
    path = lines_file(tmp_path_factory.mktemp("lines") / "x.jsonl", texts)
    assert [document.content for document in read_all([str(path)], shard_bytes)] == texts


def test_blank_lines_and_bad_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\n{"text": "a"}\n   \n{"text": "\xff"}\n{"text": "b"}')
    assert [document.content for document in read_all([str(path)], 1000)] == ["a", None, "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"x\.jsonl, line 3 is not JSON \(Expecting property name .* at column 2\); mend"),
        ('{"txt": "a"}', r'x\.jsonl, line 3 has no "text"'),
        ('{"text": 5}', r'x\.jsonl, line 3 has no "text"'),
        ('"text"', r'x\.jsonl, line 3 has no "text"'),
        ("[" * 100_000, r"x\.jsonl, line 3 is not JSON \(nested too deeply\)"),
    ],
)
@pytest.mark.parametrize("shard_bytes", [5, 1000])
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str, shard_bytes: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n\n' + line + '\n{"text": "a"}\n')
    with pytest.raises(UserError, match=message):
        read_all([str(path)], shard_bytes)


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.txt is not there"):
        list_files([str(tmp_path / "nothing.txt")], tmp_path / "out")
    with pytest.raises(UserError, match="no file to read"):
        list_files([str(tmp_path)], tmp_path / "out")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"x\.json: one document, or one a line\?"):
        list_files([str(tmp_path / "x.json")], tmp_path / "out")
    with pytest.raises(UserError, match="gone: cannot read"):
        list(read_documents(Span(str(tmp_path / "gone"), 0, 1, False)))
