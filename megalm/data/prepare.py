"""Preparing a corpus: from raw text to a directory of token ids that a run reads.

The steps are jobs whose results are files in a work folder of the output directory: clean each shard, decide on
duplicates and on the split over all shards, learn the tokenizer, encode each shard; then the shards are joined, and
``meta.json`` is put in place last. After an interruption of any kind the same call goes on with the jobs that are not
done. The output is the same, byte for byte, for any number of workers, any shard size and any interruptions.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from megalm.data.cleaning import Rules, read_stop_words
from megalm.data.files import write_refusal, write_text
from megalm.data.meta import META, REPORT, TOKENIZER, TRAIN, VALIDATION, WORK
from megalm.data.options import Options
from megalm.data.records import Kind
from megalm.data.render import Rendering
from megalm.data.report import Report
from megalm.data.sources import cut_into_shards, list_files
from megalm.data.special_tokens import parse_special_tokens
from megalm.data.steps import Steps
from megalm.data.template import DEFAULTS, Template, template_of
from megalm.data.workers import Workers
from megalm.errors import UserError

REQUEST = ".request"
IN_ORDER = (
    *(f"{split}.{kind}" for split in (TRAIN, VALIDATION) for kind in ("bin", "idx")),
    *(TOKENIZER, REPORT, REQUEST, META),
)


def prepare(
    sources: list[str],
    output: Path,
    vocab_size: int | None = None,
    tokenizer: Path | None = None,
    *,
    workers: int = 1,
    validation: float = 0.02,
    min_chars: int = 16,
    stop_words: Path | None = None,
    near_duplicates: float = 0.8,
    end_of_document: str | None = None,
    tokenizer_mib: int | None = None,
    special_tokens: str | None = None,
    records: Kind | None = None,
    template: str | None = None,
    overwrite: bool = False,
    shard_bytes: int | None = None,
    console: Console | None = None,
) -> Report:
    """Clean text, tokenize it and write it to ``output``, or go on where an interrupted call like this one was.

    Args:
        sources: text files (one document each), folders of them, ``.jsonl`` files (a ``text`` a line), or
            ``python-stdlib``.
        output: the directory to make.
        vocab_size: the vocabulary to learn, special tokens included; with ``tokenizer`` an upper bound, or None.
        tokenizer: a ``tokenizer.json`` to use instead of learning one.
        workers: processes; more than one needs a main module that can be imported, as ``multiprocessing`` does.
        validation: share of the documents to hold out, each chosen by a hash of its text.
        min_chars: shorter documents are dropped.
        stop_words: a list of words and phrases, one a line; documents with any of them are dropped.
        near_duplicates: similarity from which a document is dropped as a repeat of an earlier one, to 1; 0 is off.
        end_of_document: the token that ends a document, for a tokenizer whose token has an unusual name.
        tokenizer_mib: about how much text, in MiB, to learn the tokenizer from; None takes 2 KiB a token of vocabulary.
        special_tokens: ``bert``, ``bart``, ``t5``, ``chat`` or tokens between commas, for the learned tokenizer; a
            given one must have them.
        records: the kind of records that the sources hold, see ``records.py``; None for plain text.
        template: the text of conversations: alpaca, chatml, ins, or a TOML file; None takes the kind's own.
        overwrite: replace a directory that another call has finished.
        shard_bytes: text a job; None chooses by the size of the sources. Does not change the output.
        console: where progress is shown; None shows nothing.

    Returns:
        What was kept and dropped; it lies in the directory as ``report.json`` too.

    Raises:
        UserError: bad input, or the operating system refuses to write.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: give 1 or more.")
    rules = Rules(min_chars, read_stop_words(stop_words) if stop_words else frozenset())
    rendering = Rendering(records, _template(records, template), special_tokens=parse_special_tokens(special_tokens))
    options = Options(
        vocab_size, tokenizer, rules, validation, near_duplicates, end_of_document, tokenizer_mib, rendering
    )
    files = list_files(sources, output, records)
    size = shard_bytes or min(max(sum(file.size for file in files) // 32, 1 << 20), 1 << 24)
    request = options.request(files)
    console = console or Console(quiet=True)
    try:
        with _alone_in(output):
            if (output / META).is_file():
                if _read(output / REQUEST) == request and not overwrite:
                    console.print(f"{output} is complete already", markup=False)
                    return Report.from_json(_read(output / REPORT))
                if not overwrite:
                    raise UserError(
                        f"{output} holds a corpus made otherwise; choose another --output, or --overwrite it."
                    )
                (output / META).unlink()
            work = _work_folder(output, f"{request} {size}", console)
            with Workers(workers) as pool:
                report = Steps(cut_into_shards(files, size), options, work, pool, console).run()
            write_text(work / REPORT, report.to_json())
            write_text(work / REQUEST, request)
            for name in IN_ORDER:
                (work / name).replace(output / name)
            shutil.rmtree(work)
            return report
    except OSError as error:
        raise write_refusal(error, output) from error


def _template(kind: Kind | None, name: str | None) -> Template | None:
    if kind is not None and kind in DEFAULTS:
        return template_of(name or DEFAULTS[kind])
    if name is not None:
        raise UserError(f"--template {name} has no effect without --records {' or '.join(DEFAULTS)}; remove it.")
    return None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold the directory against a second preparation; the hold ends with this process, however it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{directory} is being prepared by another process; wait for it or end it.") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
                raise
        yield
    finally:
        os.close(descriptor)


def _work_folder(output: Path, plan: str, console: Console) -> Path:
    """Return the work folder of this plan, emptied if another plan left it."""
    work = output / WORK
    if work.is_dir() and _read(work / "plan") != plan:
        console.print("the unfinished work of other sources or options is discarded")
        shutil.rmtree(work)
    work.mkdir(exist_ok=True)
    write_text(work / "plan", plan)
    return work
