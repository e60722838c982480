"""What a prepared directory says about itself: ``meta.json``, written last, so that its presence means completeness."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from megalm.data.part_statistics import PROMPT, RESPONSE, Statistics
from megalm.data.records import Kind
from megalm.data.render import Rendering
from megalm.data.template import Template
from megalm.errors import UserError
from megalm.section import Section

FORMAT = 1
META = "meta.json"
REPORT = "report.json"
TOKENIZER = "tokenizer.json"
WORK = ".prepare"
TRAIN = "train"
VALIDATION = "validation"


class RecordsMeta(Section):
    """What a corpus of records says besides.

    Attributes:
        kind: of the records.
        template: the text of conversations.
        labels: their names, by number.
        prompt_tokens, response_tokens: what of the training split is given, and what is asked.
    """

    kind: Kind
    template: Template | None = None
    labels: list[str] | None = None
    prompt_tokens: int
    response_tokens: int

    @classmethod
    def of(cls, rendering: Rendering, parts: Statistics) -> "RecordsMeta":
        """Return what is said of records with these statistics."""
        return cls(
            kind=rendering.kind or "pairs",
            template=rendering.template,
            labels=list(rendering.labels) or None,
            prompt_tokens=int(parts.get(PROMPT, {}).get("all", 0)),
            response_tokens=int(parts.get(RESPONSE, {}).get("all", 0)),
        )


class Meta(Section):
    """The facts that a run needs of a corpus, and that two corpora of one mixture must share.

    Attributes:
        format: the number of this directory's format.
        vocab_size: the largest token id and one.
        eos_token, eos_id: what ends every document.
        dtype: how a token id is stored.
        tokenizer_digest: see the function of that name.
        train_documents, train_tokens, validation_documents, validation_tokens: what the two splits hold.
        records: of a corpus of records.
    """

    format: int
    vocab_size: int
    eos_token: str
    eos_id: int
    dtype: str
    tokenizer_digest: str
    train_documents: int
    train_tokens: int
    validation_documents: int
    validation_tokens: int
    records: RecordsMeta | None = None


def read_meta(directory: Path) -> Meta:
    """Return what ``megalm data prepare`` wrote of a directory.

    Raises:
        UserError: the directory was not finished, was not made by it, or by a newer one.
    """
    path = directory / META
    if not path.is_file():
        if (directory / WORK).is_dir():
            raise UserError(f"{directory} is not finished; run the same `megalm data prepare` command again to go on.")
        raise UserError(
            f"{directory} has no {META}; make it with `megalm data prepare`, or name a .bin/.idx prefix in it."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise UserError(f"{path} has format {content.get('format')}, this megalm reads {FORMAT}; prepare it again.")
        return Meta.model_validate(content)
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise UserError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); prepare the directory again."
        ) from error


def metas_of(places: Iterable[Path]) -> Iterator[Meta]:
    """Read the files of the places that are prepared directories, each when it is asked for.

    Raises:
        UserError: as ``read_meta``.
    """
    return (read_meta(place) for place in places if (place / META).is_file())


def records_of(places: Iterable[Path]) -> list[RecordsMeta]:
    """Return what prepared directories say of their records; other places, and corpora of texts, say nothing.

    Raises:
        UserError: as ``read_meta``.
    """
    return [meta.records for meta in metas_of(places) if meta.records is not None]


def tokenizer_digest(path: Path) -> str:
    """Return a name for what a ``tokenizer.json`` does to text: its vocabulary, merges and the steps before them.

    Two files that differ in layout or in truncation settings share it.

    Raises:
        UserError: the file is absent or is not a tokenizer.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = [content["model"], content.get("added_tokens"), content.get("normalizer"), content.get("pre_tokenizer")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as a tokenizer.json ({type(error).__name__}: {error}).") from error
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
