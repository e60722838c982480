"""Instruction tuning: the answers of records are learned, the prompts are only read."""

import torch

from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import Rows
from megalm.data.records import Part
from megalm.errors import UserError
from megalm.objectives.documents import restarted
from megalm.objectives.places import places_of


def instruct(rows: Rows, *, reset_attention: bool) -> MicroBatch:
    """Turn samples of whole records into inputs and labels shifted by one, labels only where something is asked.

    Attention and positions start anew at each record, whatever the data section says: records that lie in one sample
    have nothing to do with one another.

    Args:
        rows: samples of ``PackedRecords``.
        reset_attention: is not read.

    Raises:
        UserError: the samples do not say what is given and what is asked.
    """
    if rows.parts_bs is None:
        raise UserError(
            "objective.name=instruct needs records, and a source gives plain text; prepare them with "
            "`megalm data prepare --records instruct` or chat."
        )
    tokens, documents = torch.from_numpy(rows.tokens_bs), torch.from_numpy(rows.documents_bs)
    asked = torch.from_numpy(rows.parts_bs) == int(Part.ASKED)
    _, token_rows = places_of(rows, tokens.shape[1] - 1)
    learned = asked[:, 1:] & (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
    labels = tokens[:, 1:].masked_fill(~learned, IGNORED)
    positions = restarted(documents[:, :-1])
    return MicroBatch(tokens[:, :-1], labels, positions, token_rows, 1.0, documents[:, :-1])
