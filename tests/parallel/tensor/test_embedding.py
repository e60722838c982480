"""Oracle: torch.nn.Embedding and autograd in float64, on one process."""

import pytest
import torch
from torch import Tensor, nn

from megalm.ledger import Entry, Ledger
from megalm.mesh import Axis
from megalm.parallel.tensor.embedding import VocabParallelEmbedding
from megalm.parallel.tensor.vocab import vocab_ranges
from megalm.parameters import spec_of
from tests.parallel.tensor import slices
from tests.parallel.tensor.slices import Found
from tests.ranks import RankContext, RankPool

HIDDEN = 6
CASES = [
    (vocab_size, sequence_parallel, buffered)
    for vocab_size in (7, 1009)
    for sequence_parallel in (False, True)
    for buffered in (False, True)
]


def tokens_of(vocab_size: int) -> Tensor:
    """Return 11 tokens: the borders of every cut, and repetitions."""
    borders = {token for parts in (2, 3) for cut in vocab_ranges(vocab_size, parts) for token in (cut[0], cut[1] - 1)}
    return torch.tensor([*sorted(borders), 0, 0, vocab_size - 1, 5, 5, 5, 5, 5][:11])


def embed(context: RankContext, cases: list[tuple[int, bool, bool]]) -> list[Found]:
    axis = slices.tensor_axis(context)
    found = []
    for vocab_size, sequence_parallel, buffered in cases:
        layer = VocabParallelEmbedding(vocab_size, HIDDEN, axis, sequence_parallel=sequence_parallel)
        slices.load(layer, {"weight": slices.random(vocab_size, HIDDEN)}, axis, buffered=buffered)
        out = layer(tokens_of(vocab_size))
        for _ in range(2):
            dy = layer.region.local_rows(slices.random(len(tokens_of(vocab_size)), HIDDEN, seed=6))
            out.backward(dy, retain_graph=True)
        found.append(slices.gather(layer, out, None, buffered=buffered))
    return found


def sent(context: RankContext, sequence_parallel: bool) -> tuple[list[Entry], list[Entry]]:
    ledger = Ledger()
    layer = VocabParallelEmbedding(7, HIDDEN, slices.tensor_axis(context, ledger), sequence_parallel=sequence_parallel)
    out = layer(torch.arange(5))
    forward = list(ledger.entries)
    out.backward(torch.ones_like(out))
    return forward, ledger.entries[len(forward) :]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_it_is_embedding(ranks: RankPool, size: int) -> None:
    for (vocab_size, cut, _), *found in zip(CASES, *ranks.run(size, embed, CASES), strict=True):
        tokens = tokens_of(vocab_size)
        plain = nn.Embedding(vocab_size, HIDDEN, dtype=torch.float64)
        plain.weight.data.copy_(slices.random(vocab_size, HIDDEN))
        out = plain(tokens)
        for _ in range(2):
            out.backward(slices.random(len(tokens), HIDDEN, seed=6), retain_graph=True)
        slices.assert_close(slices.whole_rows([one.out for one in found], len(tokens), cut=cut), out.detach())
        slices.assert_gradients(found, slices.gradients_of(plain))


def test_forward_sums_once_and_backward_only_gathers(ranks: RankPool) -> None:
    total = Entry("all_reduce", "tp", "float32", 5 * HIDDEN * 4)
    assert ranks.run(2, sent, False) == [([total], [])] * 2
    gather, scatter = (Entry(kind, "tp", "float32", 6 * HIDDEN * 4) for kind in ("all_gather", "reduce_scatter"))
    assert ranks.run(2, sent, True) == [([scatter], [gather])] * 2


def test_a_frozen_table_gives_vectors_without_a_graph() -> None:
    layer = VocabParallelEmbedding(7, HIDDEN, Axis.alone())
    layer.weight.requires_grad_(False)
    assert not layer(torch.arange(3)).requires_grad


def test_its_spec_is_the_whole_table_without_padding() -> None:
    layer = VocabParallelEmbedding(1009, HIDDEN, Axis("tp", (0, 1, 2), 2), std=0.5)
    spec = spec_of(layer.weight)
    assert spec.shape == (1009, HIDDEN)
    assert spec.init.std == 0.5
    assert layer.weight.shape == (336, HIDDEN)
    assert layer.start == 673
