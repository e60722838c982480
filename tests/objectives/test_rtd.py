"""Oracle: what each token of hand-made samples must become; ELECTRA's shares by chi-square at a fixed seed."""

import numpy as np
import torch

from megalm.batch import IGNORED
from megalm.data.loader import Rows
from megalm.objectives.masking import OF_ELECTRA, Masking
from megalm.objectives.mlm_nsp import MlmNsp
from megalm.objectives.rtd import Rtd
from tests.objectives.chi_square import chance

CLS, SEP, MASK, FIRST, PAD = 0, 1, 3, 4, 2
VOCAB_SIZE = 50
RTD = Rtd(MlmNsp(Masking(0.3, MASK, np.arange(FIRST, VOCAB_SIZE), VOCAB_SIZE, OF_ELECTRA), None, None, seed=3), 50.0)


def rows_of(count: int) -> Rows:
    """Return texts between two special tokens, the last fourth of them padded, and one token more."""
    tokens = np.random.Generator(np.random.PCG64(5)).integers(FIRST, VOCAB_SIZE, (count, 13))
    documents = np.zeros((count, 13), np.int32)
    tokens[:, 0], tokens[:, 11] = CLS, SEP
    tokens[count * 3 // 4 :, 9:], documents[count * 3 // 4 :, 9:] = PAD, -1
    return Rows(tokens, documents, np.arange(100, 100 + count))


def test_all_but_padding_is_judged_and_hidden_tokens_are_never_other_ones() -> None:
    rows = rows_of(2000)
    batch = RTD(rows, reset_attention=False)
    tokens = torch.from_numpy(rows.tokens_bs[:, :12])
    asked = batch.labels_bs != IGNORED

    assert batch.judged_bs is not None
    assert batch.judged_bs.tolist() == [[True] * 12] * 1500 + [[True] * 9 + [False] * 3] * 500
    assert (batch.loss_scale, batch.judged_loss_scale) == (1.0, 50.0)
    assert torch.equal(batch.labels_bs[asked], tokens[asked])
    assert not asked[:, 0].any()
    assert torch.equal(torch.where(batch.tokens_bs == MASK, tokens, batch.tokens_bs), tokens)
    masks = int((batch.tokens_bs == MASK).sum())
    assert chance([masks, int(asked.sum()) - masks], [0.85, 0.15]) > 1e-3


def test_documents_apart() -> None:
    rows = rows_of(8)
    rows.documents_bs[:6, 5:] = 1
    batch = RTD(rows, reset_attention=True)
    assert batch.documents_bs is not None
    assert batch.documents_bs[0].tolist() == [0] * 5 + [1] * 7
    assert batch.positions_bs[0].tolist() == [*range(5), *range(7)]
    assert batch.judged_bs is not None
    assert batch.judged_bs[0].all()
