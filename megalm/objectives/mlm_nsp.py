"""Hidden tokens, and whether two texts belong together: what BERT and RoBERTa learn."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import Rows
from megalm.data.words import WordPieces
from megalm.errors import UserError
from megalm.objectives.documents import restarted
from megalm.objectives.draws import Draws
from megalm.objectives.masking import Masking
from megalm.objectives.places import places_of


@dataclass(frozen=True)
class MlmNsp:
    """The objective: each pass over a sample hides other tokens (Devlin et al. 2019; Liu et al. 2019).

    Args:
        masking: hides tokens.
        pieces: hides words whole; ``None`` hides single tokens.
        nsp_weight: what it counts, beside the tokens, whether the parts of a sample belong together; ``None`` where
            samples have one part.
        seed: of the run.
    """

    masking: Masking
    pieces: WordPieces | None
    nsp_weight: float | None
    seed: int

    def __call__(self, rows: Rows, *, reset_attention: bool) -> MicroBatch:
        """Turn rows of ``seq_length + 1`` tokens, the last of which is left out, into texts with hidden tokens.

        Args:
            rows: the samples.
            reset_attention: whether attention and positions of a running text start anew at each document.

        Raises:
            UserError: nobody says whether the samples' parts belong together.
        """
        tokens, documents = rows.tokens_bs[:, :-1], rows.documents_bs[:, :-1]
        begins = None if self.pieces is None else self.pieces.begins(tokens)
        read, hidden = self.masking(tokens, documents >= 0, begins, Draws(self.seed, rows.samples_b))
        places, token_rows = places_of(rows, tokens.shape[1])
        batch = MicroBatch(
            torch.from_numpy(read),
            torch.from_numpy(np.where(hidden, tokens, IGNORED)),
            places,
            token_rows,
            loss_scale=1.0,
        )
        of_tokens = torch.from_numpy(documents)
        if self.nsp_weight is None:
            if not reset_attention:
                return batch
            return replace(batch, documents_bs=of_tokens, positions_bs=restarted(of_tokens))
        if rows.numbers_b is None or rows.parts_bs is None:
            raise UserError(
                "objective.nsp=true asks whether two texts belong together, and a source of your own gives windows of "
                "one; set objective.nsp=false."
            )
        return replace(
            batch,
            documents_bs=of_tokens,
            segments_bs=torch.from_numpy(rows.parts_bs[:, :-1].astype(np.int64)),
            classes_b=torch.from_numpy(rows.numbers_b),
            class_loss_scale=self.nsp_weight,
        )
