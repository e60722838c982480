"""Cleaning one shard of documents, and what is kept of it between the steps of a preparation."""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megalm.data.cleaning import Reason, Rules, clean
from megalm.data.duplicates import DIGEST, HASHES, digest, signature
from megalm.data.files import whole_file
from megalm.data.records import Kind, to_text
from megalm.data.sources import Span, read_documents


@dataclass(frozen=True)
class CleanJob:
    """Read and clean the documents of a shard; the texts that pass the rules for one document go to ``target``.

    Attributes:
        kind: of the records that the documents are; ``None`` for plain text.
        find_near: whether to compute signatures, which near duplicates are found by.
    """

    spans: tuple[Span, ...]
    rules: Rules
    kind: Kind | None
    find_near: bool
    target: Path

    def run(self) -> None:
        """Write the shard; see ``CleanShard`` for what it holds."""
        texts: list[bytes] = []
        digests: list[bytes] = []
        signatures: list[NDArray[np.uint32]] = []
        names: list[str] = []
        dropped: list[tuple[str, str]] = []
        normalized = 0
        for span in self.spans:
            for document in read_documents(span, self.kind):
                text = clean(document.content, self.rules)
                if isinstance(text, Reason):
                    dropped.append((text.value, document.name))
                    continue
                normalized += not _is_nfc(document.content)
                kept = text if document.record is None else unicodedata.normalize("NFC", to_text(document.record))
                texts.append(kept.encode())
                digests.append(digest(kept))
                signatures.append(signature(text) if self.find_near else np.zeros(0, np.uint32))
                names.append(document.name)
        facts = json.dumps({"names": names, "dropped": dropped, "normalized": normalized})
        width = HASHES if self.find_near else 0
        with whole_file(self.target) as stream:
            np.savez(
                stream,
                texts=np.frombuffer(b"".join(texts), np.uint8),
                ends=np.cumsum([len(text) for text in texts], dtype=np.int64),
                digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST),
                signatures=np.array(signatures, np.uint32).reshape(len(texts), width),
                facts=np.frombuffer(facts.encode(), np.uint8),
            )


def _is_nfc(content: bytes | str | None) -> bool:
    text = content.decode() if isinstance(content, bytes) else content
    return text is None or unicodedata.is_normalized("NFC", text)


@dataclass(frozen=True)
class CleanShard:
    """What is known of the kept texts of a shard, without the texts themselves.

    Attributes:
        names: where each came from.
        sizes_d: bytes of each text, or record, int64 [texts].
        digests_db: uint8 [texts, DIGEST].
        signatures_dh: uint32 [texts, HASHES], or [texts, 0] when near duplicates are not looked for.
        dropped: reason and name of every document that was dropped.
        normalized: how many of the kept texts NFC changed.
    """

    names: list[str]
    sizes_d: NDArray[np.int64]
    digests_db: NDArray[np.uint8]
    signatures_dh: NDArray[np.uint32]
    dropped: list[tuple[Reason, str]]
    normalized: int


def read_shard(path: Path) -> CleanShard:
    """Return what a ``CleanJob`` found."""
    with np.load(path) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        return CleanShard(
            names=facts["names"],
            sizes_d=np.diff(arrays["ends"], prepend=0),
            digests_db=arrays["digests"],
            signatures_dh=arrays["signatures"],
            dropped=[(Reason(reason), name) for reason, name in facts["dropped"]],
            normalized=facts["normalized"],
        )


def read_texts(path: Path, wanted: NDArray[np.bool_]) -> Iterator[str]:
    """Yield the wanted texts of a shard, in order; ``wanted`` is bool [texts]."""
    with np.load(path) as arrays:
        texts, ends = arrays["texts"], arrays["ends"]
    starts = np.concatenate([[0], ends])
    for index in np.flatnonzero(wanted):
        yield texts[starts[index] : starts[index + 1]].tobytes().decode()
