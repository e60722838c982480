"""Sequence classification: which of a few classes a whole sample is of."""

from dataclasses import dataclass

import torch

from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import Rows
from megalm.errors import UserError
from megalm.objectives.places import places_of


@dataclass(frozen=True)
class Classify:
    """Turn samples of one labelled record each into inputs and classes.

    Args:
        around: the tokens that an encoder wants before and behind a text; ``None`` leaves a text as it is.
    """

    around: tuple[int, int] | None = None

    def __call__(self, rows: Rows, *, reset_attention: bool) -> MicroBatch:
        """Return the inputs, each text at the beginning of its sample, behind it padding that nothing sees.

        Args:
            rows: samples of ``SingleRecords``.
            reset_attention: is not read: a sample is one document.

        Raises:
            UserError: the samples have no labels.
        """
        if rows.numbers_b is None:
            raise UserError(
                "objective.name=classify needs labelled records, and a source gives plain text; prepare them with "
                "`megalm data prepare --records labelled`."
            )
        tokens, s = torch.from_numpy(rows.tokens_bs)[:, :-1].clone(), rows.tokens_bs.shape[1] - 1
        lengths_b = (torch.from_numpy(rows.documents_bs)[:, :-1] >= 0).sum(1)
        if self.around is not None:  # the second one takes the place of the end of the document
            before, behind = self.around
            tokens = torch.cat([torch.full_like(tokens[:, :1], before), tokens[:, :-1]], 1)
            ends_b = lengths_b.clamp(max=s - 1)
            tokens.scatter_(1, ends_b.unsqueeze(1), behind)
            lengths_b = ends_b + 1
        places, token_rows = places_of(rows, s)
        documents = torch.where(places < lengths_b.unsqueeze(1), 0, -1).to(torch.int32)
        return MicroBatch(
            tokens_bs=tokens,
            labels_bs=torch.full_like(tokens, IGNORED),
            positions_bs=places,
            rows_bs=token_rows,
            loss_scale=0.0,
            documents_bs=documents,
            classes_b=torch.from_numpy(rows.numbers_b),
            class_loss_scale=1.0,
        )
