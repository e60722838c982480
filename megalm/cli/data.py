"""``megalm data``: making the corpora that runs read."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from megalm.data.records import Kind
from megalm.launcher.exit_codes import INTERRUPTED

app = typer.Typer(help="Make the corpora that runs read.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Make the corpora that runs read."""


@app.command()
def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Text files (one document each), folders of them, .jsonl files (a document a line, in its `text`), or "
            "python-stdlib: the standard library of this Python, real text without a download.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The directory to make.")],
    vocab_size: Annotated[
        int | None, typer.Option(help="Learn byte-level BPE of this many tokens, special tokens included (from 257).")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Use this tokenizer.json instead of learning one.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; all cores that this process may use if not given.")
    ] = None,
    validation: Annotated[float, typer.Option(help="Share of the documents held out for evaluation.")] = 0.02,
    min_chars: Annotated[int, typer.Option(help="Drop documents shorter than this many characters.")] = 16,
    stop_words: Annotated[
        Path | None, typer.Option(help="Drop documents with any word or phrase of this list (one a line).")
    ] = None,
    near_duplicates: Annotated[
        float, typer.Option(help="Drop a document this similar (0 to 1) to an earlier one; 0 keeps them all.")
    ] = 0.8,
    end_of_document: Annotated[
        str | None, typer.Option(help="The token that ends a document, if --tokenizer has an unusual name for it.")
    ] = None,
    tokenizer_mib: Annotated[
        int | None,
        typer.Option(
            help="About how many MiB of text to learn the tokenizer from; 2 KiB a token of vocabulary if not given."
        ),
    ] = None,
    special_tokens: Annotated[
        str | None,
        typer.Option(
            help="Tokens that stand for no text: bert, bart (and RoBERTa), t5, chat, or any names between commas. "
            "Learned tokenizers get them; one given with --tokenizer must have them."
        ),
    ] = None,
    records: Annotated[
        Kind | None,
        typer.Option(
            help="Lines of .jsonl are records, one a line: instruct (instruction, output, and input if there is any), "
            "chat (messages, each a role and a content), pairs (source, target), labelled (text, label). Python "
            "sources are made into records of their functions."
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="How instructions and messages become text: alpaca (for instruct by default), chatml (for chat), "
            "ins, or a TOML file."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished directory.")] = False,
) -> None:
    """Clean text, learn a tokenizer or take one, and write token ids that a run reads.

    Interrupted in any way, the same command goes on where it was. The output does not depend on the number of workers.
    """
    from megalm.data.prepare import prepare as prepare_corpus

    try:
        report = prepare_corpus(
            sources,
            output,
            vocab_size,
            tokenizer,
            workers=_cores() if workers is None else workers,
            validation=validation,
            min_chars=min_chars,
            stop_words=stop_words,
            near_duplicates=near_duplicates,
            end_of_document=end_of_document,
            tokenizer_mib=tokenizer_mib,
            special_tokens=special_tokens,
            records=records,
            template=template,
            overwrite=overwrite,
            console=Console(stderr=True),
        )
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command goes on where it stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None
    console = Console()
    console.print(report.table())
    console.print(f"{output} is ready; name it in data.train[].path", markup=False, soft_wrap=True)


def _cores() -> int:
    """Return the cores that this process may use; where the system does not say, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
