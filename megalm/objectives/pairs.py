"""Pairs as they lie in the data: what a record gives is the source, what it asks the target."""

from collections.abc import Sequence
from dataclasses import dataclass

from megalm.data.loader import Rows
from megalm.data.records import Part
from megalm.errors import UserError
from megalm.objectives.draws import Draws
from megalm.objectives.seq2seq import Tokens


@dataclass(frozen=True)
class Pairs:
    """Samples of ``SingleRecords`` as pairs, without padding and without the end that closes a record.

    Args:
        end: the token that ends a record.
    """

    end: int

    def __call__(self, rows: Rows, draws: Draws, /) -> tuple[Sequence[Tokens], Sequence[Tokens]]:
        """Return the source and the target of each sample.

        Raises:
            UserError: the samples do not say what is given and what is asked.
        """
        if rows.parts_bs is None:
            raise UserError(
                "objective.seq2seq=pairs needs records, and a source gives plain text; prepare them with "
                "`megalm data prepare --records pairs`."
            )
        sources, targets = [], []
        for tokens, parts, documents in zip(rows.tokens_bs, rows.parts_bs, rows.documents_bs, strict=True):
            there = documents >= 0
            given, asked = (tokens[there & (parts == part)] for part in (Part.GIVEN, Part.ASKED))
            sources.append(given)
            targets.append(asked[:-1] if len(asked) and asked[-1] == self.end else asked)
        return sources, targets
