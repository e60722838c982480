"""Which tokens a generator has replaced: what ELECTRA learns."""

from dataclasses import dataclass, replace

import torch

from megalm.batch import MicroBatch
from megalm.data.loader import Rows
from megalm.objectives.mlm_nsp import MlmNsp


@dataclass(frozen=True)
class Rtd:
    """The objective: a generator names hidden tokens, and of every token it is asked whether it was replaced.

    Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators".

    Args:
        hidden: hides tokens of running texts.
        weight: what the loss of the discriminator counts beside that of the generator.
    """

    hidden: MlmNsp
    weight: float

    def __call__(self, rows: Rows, *, reset_attention: bool) -> MicroBatch:
        """Turn rows of ``seq_length + 1`` tokens, the last of which is left out, into texts with hidden tokens.

        All but padding is judged, special tokens too.

        Args:
            rows: the samples.
            reset_attention: whether attention and positions start anew at each document.
        """
        batch = self.hidden(rows, reset_attention=reset_attention)
        judged = torch.from_numpy(rows.documents_bs[:, :-1] >= 0)
        return replace(batch, judged_bs=judged, judged_loss_scale=self.weight)
