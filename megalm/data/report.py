"""What became of the documents of a corpus: how many were kept, and how many dropped for which reason."""

import json
from dataclasses import asdict, dataclass, field
from typing import Self

from rich.markup import escape
from rich.table import Column, Table

from megalm.data.cleaning import Reason
from megalm.data.part_statistics import Statistics

EXAMPLES = 5


@dataclass
class Report:
    """Counts of documents and tokens; ``examples`` names the first few documents of each reason.

    Attributes:
        read: documents in the sources.
        normalized: documents whose Unicode form was changed to NFC, among those kept by the rules of one document.
        dropped: documents dropped for each reason; every document counts once.
        vocab_size: the vocabulary that came out.
        parts: of records, how long what is given and what is asked is; see ``part_statistics``.
    """

    read: int = 0
    normalized: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {reason.value: 0 for reason in Reason})
    examples: dict[str, list[str]] = field(default_factory=lambda: {reason.value: [] for reason in Reason})
    train_documents: int = 0
    train_tokens: int = 0
    validation_documents: int = 0
    validation_tokens: int = 0
    vocab_size: int = 0
    parts: Statistics = field(default_factory=dict)

    def drop(self, reason: Reason, name: str) -> None:
        """Count a dropped document by its name."""
        self.dropped[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(name)

    def sentence(self) -> str:
        """Return in one clause what was dropped."""
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in self.dropped.items() if count)
        return f"of {self.read} read, {reasons}" if reasons else f"{self.read} read"

    def to_json(self) -> str:
        """Return the report as it lies in ``report.json``."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a report back."""
        return cls(**json.loads(text))

    def table(self) -> Table:
        """Return the report for people."""
        table = Table(
            "documents",
            "",
            Column("for example", overflow="fold"),
            title=f"{self.read} documents read",
            title_justify="left",
        )
        for reason, count in self.dropped.items():
            table.add_row(
                f"dropped: {reason.replace('_', ' ')}", str(count), escape("".join(self.examples[reason][:1]))
            )
        table.add_row("changed to Unicode NFC", str(self.normalized), "")
        table.add_row("kept for training", str(self.train_documents), f"{self.train_tokens} tokens")
        table.add_row("kept for validation", str(self.validation_documents), f"{self.validation_tokens} tokens")
        table.add_row("vocabulary", str(self.vocab_size), "")
        for name, numbers in self.parts.items():
            shown = [f"{key} {value:.0f}" for key, value in numbers.items() if key != "all"]
            total = numbers.get("all", len(numbers))
            table.add_row(name, f"{total:.0f}", escape(", ".join(shown)))
        return table
