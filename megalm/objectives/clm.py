"""Causal language modelling: every token is a label of the tokens before it."""

import torch

from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import Rows
from megalm.objectives.documents import restarted
from megalm.objectives.places import places_of


def clm(rows: Rows, *, reset_attention: bool) -> MicroBatch:
    """Turn rows of seq_length + 1 tokens into inputs and labels shifted by one.

    Args:
        rows: the samples.
        reset_attention: whether attention and positions start anew at each document; a document's last token is then
            not asked for the next document's first.
    """
    tokens = torch.from_numpy(rows.tokens_bs)
    places, token_rows = places_of(rows, tokens.shape[1] - 1)
    if not reset_attention:
        return MicroBatch(tokens[:, :-1], tokens[:, 1:], places, token_rows, loss_scale=1.0)
    documents = torch.from_numpy(rows.documents_bs)
    positions = restarted(documents[:, :-1])
    labels = tokens[:, 1:].masked_fill(documents[:, 1:] != documents[:, :-1], IGNORED)
    return MicroBatch(tokens[:, :-1], labels, positions, token_rows, 1.0, documents[:, :-1])
