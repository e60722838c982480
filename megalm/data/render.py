"""From a kept document to the sequences of token ids that are stored of it."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from megalm.data.bpe import encode, encode_text
from megalm.data.records import Kind, Part, Record
from megalm.data.template import Piece, Template

Sequences = Sequence[tuple[Part, NDArray[np.int64]]]
"""The parts of one document in order, each int64 [its length]."""


@dataclass(frozen=True)
class Rendering:
    """How the documents of one preparation become token ids.

    Attributes:
        kind: of its records; ``None`` where documents are plain text.
        template: of conversations, for kinds that are such.
        labels: by number, for labelled records.
        special_tokens: that the tokenizer is given; it does not learn from their letters.
    """

    kind: Kind | None = None
    template: Template | None = None
    labels: tuple[str, ...] = ()
    special_tokens: tuple[str, ...] = ()

    def with_labels(self, texts: Iterable[str]) -> "Rendering":
        """Return the same with the labels of these documents, in alphabetical order."""
        if self.kind != "labelled":
            return self
        return replace(self, labels=tuple(sorted({json.loads(text)["label"] for text in texts})))

    def request(self) -> list[object]:
        """Return what tells this rendering from others, before the labels are known; nothing of plain text."""
        template = None if self.template is None else self.template.model_dump()
        parts: list[object] = [list(self.special_tokens), self.kind, template]
        return parts if any(parts) else []

    def learnable(self, kept: str) -> Iterator[str]:
        """Yield the texts of a document that a tokenizer learns from."""
        if self.kind is None:
            yield kept
            return
        special = "|".join(map(re.escape, self.special_tokens))
        for piece in self._pieces(json.loads(kept)):
            yield from filter(None, re.split(special, piece.text) if special else [piece.text])

    def sequences(self, tokenizer: Tokenizer, kept: str, end_id: int) -> Sequences:
        """Return the token ids of a document; the last one of its text is the end of the document.

        Args:
            tokenizer: as ``open_tokenizer`` returns it.
            kept: the document, as the cleaning left it.
            end_id: the token that ends a document.
        """
        if self.kind is None:
            return [(Part.GIVEN, encode(tokenizer, kept, end_id))]
        record = json.loads(kept)
        encoded = [(piece.part, encode_piece(tokenizer, piece, end_id)) for piece in self._pieces(record)]
        last, tokens = encoded[-1]
        if not len(tokens) or tokens[-1] != end_id:
            encoded.append((last, np.array([end_id])))
        merged = [
            (part, np.concatenate([tokens for _, tokens in same]))
            for part, same in groupby(encoded, key=lambda each: each[0])
        ]
        if self.kind == "labelled":
            merged.append((Part.LABEL, np.array([self.labels.index(record["label"])])))
        return merged

    def _pieces(self, record: Record) -> list[Piece]:
        match self.kind:
            case "pairs":
                given, asked = record["source"], record["target"]
                return [Piece(Part.GIVEN, given, literal=False), Piece(Part.ASKED, asked, literal=False)]
            case "labelled":
                return [Piece(Part.GIVEN, record["text"], literal=False)]
        assert self.template is not None
        return list(self.template.pieces(record))


def encode_piece(tokenizer: Tokenizer, piece: Piece, end_id: int) -> NDArray[np.int64]:
    """Return the token ids of a stretch of text, int64 [its length]; only the template's own may hold special ones."""
    if not piece.text:
        return np.array([end_id] if piece.literal else [], np.int64)
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = not piece.literal
    try:
        return encode_text(tokenizer, piece.text)
    finally:
        tokenizer.encode_special_tokens = before
