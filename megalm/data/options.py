"""What decides the result of a preparation besides its sources."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from megalm.data.bpe import check_size, end_of_document, open_tokenizer, vocabulary_size
from megalm.data.cleaning import Rules
from megalm.data.meta import FORMAT
from megalm.data.render import Rendering
from megalm.data.sources import SourceFile
from megalm.errors import UserError


@dataclass(frozen=True)
class Options:
    """The checked options of ``prepare``, which see.

    Raises:
        UserError: a value that cannot be meant, or a tokenizer that does not fit.
    """

    vocab_size: int | None
    tokenizer: Path | None
    rules: Rules
    validation: float
    near_duplicates: float
    end_of_document: str | None
    tokenizer_mib: int | None
    rendering: Rendering

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise UserError(f"--validation {self.validation}: give the share to hold out, from 0 to below 1.")
        if not 0 <= self.near_duplicates <= 1:
            raise UserError(f"--near-duplicates {self.near_duplicates}: give a similarity from 0 (off) to 1.")
        if self.tokenizer_mib is not None and self.tokenizer_mib < 1:
            raise UserError(f"--tokenizer-mib {self.tokenizer_mib}: give 1 or more.")
        if self.tokenizer is not None:
            self._check_tokenizer(self.tokenizer)
        elif self.vocab_size is None:
            raise UserError("Give --vocab-size N to learn a tokenizer of N tokens, or --tokenizer FILE to use one.")
        else:
            check_size(self.vocab_size, self.rendering.special_tokens)

    def _check_tokenizer(self, path: Path) -> None:
        tokenizer = open_tokenizer(path)
        end_of_document(tokenizer, self.end_of_document)
        absent = [token for token in self.rendering.special_tokens if tokenizer.token_to_id(token) is None]
        if absent:
            raise UserError(
                f"{path} has no token {absent[0]}, which --special-tokens names; leave it out, or learn a tokenizer "
                "with --vocab-size."
            )
        size = vocabulary_size(tokenizer)
        if self.vocab_size is not None and size > self.vocab_size:
            raise UserError(
                f"{path} has {size} tokens, more than --vocab-size {self.vocab_size}: raise it or leave it out."
            )

    def sample_bytes(self) -> int:
        """Return how much text to learn the tokenizer from: more than 2 KiB a token hardly changes the merges."""
        return (self.tokenizer_mib or max(8, (self.vocab_size or 0) // 512)) << 20

    def request(self, files: list[SourceFile]) -> str:
        """Return a name for these options on these files, by which a later call knows whether it is the same."""
        learned_elsewhere = self.tokenizer and hashlib.sha256(self.tokenizer.read_bytes()).hexdigest()
        parts = [
            FORMAT,
            [[file.path, file.size, file.modified_ns] for file in files],
            [self.vocab_size, learned_elsewhere, self.validation, self.near_duplicates],
            [self.rules.min_chars, sorted(self.rules.stop_words), self.end_of_document, self.sample_bytes()],
            *self.rendering.request(),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
