"""Oracle: micro-batches laid out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import Rows
from megalm.objectives.draws import Draws
from megalm.objectives.seq2seq import Framing, Seq2Seq, Tokens
from megalm.training.feed import split
from tests.objectives.samples import numbered

END, PAD, START, FIRST = 1, 0, 2, 3
PLAIN = Framing(None, END, PAD, START)
LONGEST = 20


def halves(rows: Rows, draws: Draws, /) -> tuple[list[Tokens], list[Tokens]]:
    """The first n + 1 tokens of sample n are the source, two others the target, of sample 2 three."""
    numbers = rows.samples_b
    sources = [row[: number + 1] for row, number in zip(rows.tokens_bs, numbers, strict=True)]
    return sources, [row[5 : 8 if number == 2 else 7] for row, number in zip(rows.tokens_bs, numbers, strict=True)]


def made(samples: list[int], framing: Framing = PLAIN) -> MicroBatch:
    return Seq2Seq(halves, framing, LONGEST, 0)(numbered(samples, 9), reset_attention=False)


def test_shorter_ones_are_padded() -> None:
    batch = made([1, 2])
    assert batch.source is not None
    assert batch.source.tokens_bs.tolist() == [[1000, 1001, END, PAD], [2000, 2001, 2002, END]]
    assert batch.source.documents_bs is not None
    assert batch.source.documents_bs.tolist() == [[0, 0, 0, -1], [0, 0, 0, 0]]
    assert batch.tokens_bs.tolist() == [[START, 1005, 1006, END], [START, 2005, 2006, 2007]]
    assert batch.labels_bs.tolist() == [[1005, 1006, END, IGNORED], [2005, 2006, 2007, END]]
    assert batch.documents_bs is None
    assert batch.positions_bs.tolist() == batch.source.positions_bs.tolist() == [[0, 1, 2, 3]] * 2
    assert batch.rows_bs.tolist() == batch.source.rows_bs.tolist() == [[20, 21, 22, 23], [40, 41, 42, 43]]


def test_no_padding_is_told_where_there_is_none() -> None:
    batch = made([1])
    assert batch.source is not None
    assert batch.source.documents_bs is None
    assert (batch.labels_bs != IGNORED).all()


def test_a_first_token_where_the_tokenizer_has_one() -> None:
    batch = made([0], replace(PLAIN, first=FIRST))
    assert batch.source is not None
    assert batch.source.tokens_bs.tolist() == [[FIRST, 0, END]]
    assert batch.tokens_bs.tolist() == [[START, FIRST, 5, 6]]
    assert batch.labels_bs.tolist() == [[FIRST, 5, 6, END]]


@pytest.mark.parametrize("first", [None, FIRST])
def test_size_counts_what_stands_around(first: int | None) -> None:
    framing = replace(PLAIN, first=first)
    assert framing.size == len(framing.around(np.arange(4))) - 4


def test_a_share_without_samples() -> None:
    batch = made([])
    assert batch.source is not None
    assert len(batch.tokens_bs) == len(batch.source.tokens_bs) == 0


def test_micro_batches_take_their_part_of_the_source() -> None:
    whole, parts = made([1, 2, 3]), split(made([1, 2, 3]), 2)
    assert whole.source is not None
    assert [len(part.tokens_bs) for part in parts] == [2, 1]
    assert parts[1].source is not None
    assert parts[1].source.tokens_bs.tolist() == whole.source.tokens_bs[2:].tolist()
