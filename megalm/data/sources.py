"""Where raw documents come from: text files, folders of them, JSON lines, and Python's standard library.

The documents of all sources have one order: sources as given, files by name, lines as they lie. Everything later keeps
it, so that the output depends neither on the number of workers nor on how the work was cut into shards.
"""

import json
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megalm.data.code_records import code_records
from megalm.data.records import Kind, Record, read_record, words
from megalm.errors import UserError

PYTHON_STDLIB = "python-stdlib"
JSON_LINES = (".jsonl", ".ndjson")
PYTHON = ".py"
INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class SourceFile:
    """One file to read, and what tells whether it has changed since."""

    path: str
    size: int
    modified_ns: int

    @property
    def is_json_lines(self) -> bool:
        """Whether every line is a document; otherwise the file is one."""
        return self.path.endswith(JSON_LINES)


@dataclass(frozen=True)
class Span:
    """The part of a source file that one shard reads, in bytes; a line belongs to the span in which it begins."""

    path: str
    start: int
    end: int
    is_json_lines: bool


@dataclass(frozen=True)
class RawDocument:
    """A document as it lies in its source.

    Attributes:
        content: undecoded bytes of a file, or the text of a JSON line (None: not UTF-8).
        record: where documents are records, the record of which ``content`` is the words.
    """

    name: str
    content: bytes | str | None
    record: Record | None = None


def list_files(sources: list[str], output: Path, kind: Kind | None = None) -> list[SourceFile]:
    """Return the files of all sources, in the order of their documents.

    Args:
        sources: paths of files and folders, or ``python-stdlib``.
        output: the directory that is being made; a source folder around it does not read it back.
        kind: of the records that the documents are.

    Raises:
        UserError: a source is absent or cannot be listed, or there is no file at all, or no records can be in one.
    """
    files = [file for source in sources for file in _files_of(source, output.absolute())]
    if not files:
        raise UserError(
            f"{', '.join(sources) or 'no source'}: there is no file to read; name text files or .jsonl files."
        )
    for file in files:
        if kind is not None and not file.is_json_lines and not file.path.endswith(PYTHON):
            raise UserError(
                f"{file.path} holds no records; --records {kind} reads .jsonl, and makes records of Python sources."
            )
    return files


def _files_of(source: str, output: Path) -> Iterator[SourceFile]:
    path = Path(source)
    paths: Iterable[Path]
    try:
        if source == PYTHON_STDLIB:
            root = Path(sysconfig.get_path("stdlib"))
            paths = (file for file in root.rglob("*.py") if not INSTALLED.intersection(file.relative_to(root).parts))
        elif path.is_dir():
            paths = (file for file in path.rglob("*") if output not in file.absolute().parents)
        elif path.is_file():
            if path.suffix == ".json":
                raise UserError(f"{path}: one document, or one a line? Rename it to .txt or to .jsonl accordingly.")
            paths = [path]
        else:
            raise UserError(
                f"{source} is not there; a source is a text file, a folder, a .jsonl file or {PYTHON_STDLIB}."
            )
        for file in sorted(paths):
            if file.is_file():
                status = file.stat()
                yield SourceFile(str(file), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{error.filename or source}: cannot read this source ({error.strerror or error}).") from error


def cut_into_shards(files: list[SourceFile], shard_bytes: int) -> list[tuple[Span, ...]]:
    """Cut the files into shards of about ``shard_bytes``: whole files together, long JSON-lines files in parts."""
    shards: list[tuple[Span, ...]] = []
    spans: list[Span] = []
    held = 0
    for file in files:
        step = shard_bytes if file.is_json_lines else max(file.size, 1)
        for start in range(0, max(file.size, 1), step):
            spans.append(Span(file.path, start, min(start + step, file.size), file.is_json_lines))
            held += spans[-1].end - start
            if held >= shard_bytes:
                shards.append(tuple(spans))
                spans, held = [], 0
    return [*shards, tuple(spans)] if spans else shards


def read_documents(span: Span, kind: Kind | None = None) -> Iterator[RawDocument]:
    """Yield the documents of a span.

    Args:
        span: which part of which file.
        kind: of the records that the documents are; ``None`` for plain text.

    Raises:
        UserError: the file cannot be read, or a line is not JSON with a ``text``, or with what its kind needs.
    """
    try:
        if span.is_json_lines:
            yield from _read_lines(span, kind)
        elif kind is not None:
            for name, record in code_records(kind, Path(span.path)):
                yield RawDocument(f"{span.path} ({name})", words(kind, record), record)
        else:
            yield RawDocument(span.path, Path(span.path).read_bytes())
    except OSError as error:
        raise UserError(f"{span.path}: cannot read this source ({error.strerror or error}).") from error


def _read_lines(span: Span, kind: Kind | None) -> Iterator[RawDocument]:
    with open(span.path, "rb") as stream:
        if span.start:
            stream.seek(span.start - 1)
            stream.readline()  # the line that runs into this span is the neighbour's
        while (offset := stream.tell()) < span.end:
            line = stream.readline()
            if line.strip():
                yield _document(line, span.path, offset, kind)


def _document(line: bytes, path: str, offset: int, kind: Kind | None) -> RawDocument:
    name = f"{path} (byte {offset})"
    try:
        content = json.loads(line.decode())
    except UnicodeDecodeError:
        return RawDocument(name, None)
    except (json.JSONDecodeError, RecursionError) as error:
        why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise UserError(f"{path}, line {_line_number(path, offset)} is not JSON ({why}); mend or remove it.") from error
    if kind is not None:
        record = read_record(kind, content)
        if isinstance(record, str):
            raise UserError(f"{path}, line {_line_number(path, offset)} {record}.")
        return RawDocument(name, words(kind, record), record)
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        raise UserError(f'{path}, line {_line_number(path, offset)} has no "text" string; give every line one.')
    return RawDocument(name, content["text"])


def _line_number(path: str, offset: int) -> int:
    number = 1
    with open(path, "rb") as stream:
        while offset > 0 and (block := stream.read(min(offset, 1 << 20))):
            number += block.count(b"\n")
            offset -= len(block)
    return number
