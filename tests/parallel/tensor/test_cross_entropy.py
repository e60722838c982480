"""Oracle: torch.nn.functional.cross_entropy of x @ weight.t() and autograd in float64, on one process."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm.batch import IGNORED
from megalm.ledger import Entry, Ledger
from megalm.mesh import Axis
from megalm.parallel.tensor import cross_entropy
from megalm.parallel.tensor.cross_entropy import VocabParallelHead
from megalm.parallel.tensor.embedding import VocabParallelEmbedding
from megalm.parallel.tensor.vocab import CHUNK_TOKENS, vocab_ranges
from megalm.parameters import spec_of
from tests.parallel.sums import sum_of
from tests.parallel.tensor import slices
from tests.parallel.tensor.memory import LargeTensors
from tests.parallel.tensor.slices import Found
from tests.ranks import RankContext, RankPool

HIDDEN = 6


@dataclass(frozen=True)
class Case:
    """One setting of the head."""

    vocab_size: int = 1009
    num_tokens: int = 11
    sequence_parallel: bool = False
    buffered: bool = False
    all_ignored: bool = False
    has_bias: bool = False
    size_of_logits: float = 1.0

    @property
    def labels(self) -> Tensor:
        """The borders of every cut of the vocabulary, and every third token ignored."""
        cuts = [*vocab_ranges(self.vocab_size, 2), *vocab_ranges(self.vocab_size, 3)]
        borders = [token for start, stop in cuts for token in (start, stop - 1)]
        labels = torch.tensor(borders * 2)[: self.num_tokens]
        labels[::3] = IGNORED
        return torch.full_like(labels, IGNORED) if self.all_ignored else labels

    @property
    def scale(self) -> float:
        """Some other batch's 1 / (valid tokens): no number of this case, and no short float."""
        return 1 / 7.3

    @property
    def x(self) -> Tensor:
        return slices.random(self.num_tokens, HIDDEN, seed=5)

    @property
    def weight(self) -> Tensor:
        return slices.random(self.vocab_size, HIDDEN, seed=1) * self.size_of_logits

    @property
    def bias(self) -> Tensor:
        return slices.random(self.vocab_size, seed=2)


CASES = [
    *(Case(vocab, 11, sp, buffered) for vocab in (7, 1009) for sp in (False, True) for buffered in (False, True)),
    Case(num_tokens=12, sequence_parallel=True),
    Case(num_tokens=1, sequence_parallel=True),
    Case(has_bias=True),
    Case(vocab_size=7, sequence_parallel=True, buffered=True, has_bias=True),
    Case(all_ignored=True),
    Case(all_ignored=True, sequence_parallel=True, buffered=True),
    Case(size_of_logits=1000.0),
]


def head(context: RankContext, cases: list[Case], chunk_tokens: int) -> list[Found]:
    axis = slices.tensor_axis(context)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CHUNK_TOKENS", chunk_tokens)
        for case in cases:
            layer = VocabParallelHead(
                case.vocab_size, HIDDEN, axis, bias=case.has_bias, sequence_parallel=case.sequence_parallel
            )
            slices.load(layer, {"weight": case.weight, "bias": case.bias}, axis, buffered=case.buffered)
            x = slices.local_leaf(layer.region, case.x)
            out = layer(x, case.labels, case.scale)
            out.backward()
            found.append(slices.gather(layer, out, x, buffered=case.buffered))
    return found


def plain(case: Case) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the loss and the gradients of x, and of the weight and the bias."""
    x, weight, bias = (tensor.requires_grad_() for tensor in (case.x, case.weight, case.bias))
    logits = x @ weight.t() + (bias if case.has_bias else 0)
    loss = F.cross_entropy(logits, case.labels, ignore_index=IGNORED, reduction="sum") * case.scale
    loss.backward()
    assert x.grad is not None
    gradients = {name: tensor.grad for name, tensor in (("weight", weight), ("bias", bias)) if tensor.grad is not None}
    return loss.detach(), x.grad, gradients


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("chunk_tokens", [4, 512])
def test_it_is_cross_entropy(ranks: RankPool, size: int, chunk_tokens: int) -> None:
    for case, *found in zip(CASES, *ranks.run(size, head, CASES, chunk_tokens), strict=True):
        loss, dx, gradients = plain(case)
        slices.assert_close(slices.whole_rows([one.out for one in found], 1, cut=False), loss)
        parts = [one.dx for one in found if one.dx is not None]
        slices.assert_close(slices.whole_rows(parts, case.num_tokens, cut=case.sequence_parallel), dx)
        slices.assert_gradients(found, gradients)


def test_a_batch_without_a_label_has_loss_0_and_gradients_0() -> None:
    layer = VocabParallelHead(7, HIDDEN, Axis.alone())
    x = torch.ones(3, HIDDEN, requires_grad=True)
    loss = layer(x, torch.full((3,), IGNORED), 0.0)
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert not x.grad.any()
    assert not layer.weight.grad.any()


def tied(context: RankContext) -> tuple[Tensor, Tensor]:
    """Return the gradient of a table that is read and predicted with, from two micro-batches."""
    axis = slices.tensor_axis(context)
    embedding = VocabParallelEmbedding(1009, HIDDEN, axis)
    slices.load(embedding, {"weight": Case().weight}, axis, buffered=True)
    layer = VocabParallelHead(1009, HIDDEN, axis, weight=embedding.weight)
    for _ in range(2):
        loss = layer(embedding(torch.arange(11) * 90), Case().labels, Case().scale)
        loss.backward()
    return loss.detach(), sum_of(embedding.weight)


@pytest.mark.parametrize("size", [1, 2])
def test_a_tied_table_sums_both_uses(ranks: RankPool, size: int) -> None:
    found = ranks.run(size, tied)
    table = Case().weight.requires_grad_()
    for _ in range(2):
        logits = F.embedding(torch.arange(11) * 90, table) @ table.t()
        loss = F.cross_entropy(logits, Case().labels, ignore_index=IGNORED, reduction="sum") * Case().scale
        loss.backward()
    assert table.grad is not None
    slices.assert_close(found[0][0], loss.detach())
    slices.assert_close(torch.cat([gradient for _, gradient in found]), table.grad)


@pytest.mark.parametrize(("learns_x", "learns_weight"), [(True, False), (False, True), (False, False)])
def test_only_what_learns_has_a_gradient(learns_x: bool, learns_weight: bool) -> None:
    layer = VocabParallelHead(1009, HIDDEN, Axis.alone())
    slices.load(layer, {"weight": Case().weight}, Axis.alone(), buffered=False)
    layer.weight.requires_grad_(learns_weight)
    x = Case().x.requires_grad_(learns_x)
    out = layer(x, Case().labels, Case().scale)
    loss, dx, gradients = plain(Case())
    slices.assert_close(out.detach(), loss)
    assert out.requires_grad == (learns_x or learns_weight)
    if out.requires_grad:
        out.backward()
    for found, wanted, learns in ((x.grad, dx, learns_x), (layer.weight.grad, gradients["weight"], learns_weight)):
        assert (found is None) == (not learns)
        if found is not None:
            slices.assert_close(found, wanted)


def test_an_evaluation_adds_no_gradient() -> None:
    layer = VocabParallelHead(1009, HIDDEN, Axis.alone())
    slices.load(layer, {"weight": Case().weight}, Axis.alone(), buffered=True)
    with torch.no_grad():
        out = layer(Case().x.requires_grad_(), Case().labels, Case().scale)
    slices.assert_close(out, plain(Case())[0])
    assert not sum_of(layer.weight).any()


@pytest.mark.parametrize("learns", [True, False])
def test_only_one_chunk_of_logits_lives_at_a_time(learns: bool) -> None:
    """The weight is smaller than a chunk here, and so is all else but logits."""
    vocab_size, num_tokens = 300, 2 * CHUNK_TOKENS + 76
    layer = VocabParallelHead(vocab_size, HIDDEN, Axis.alone())
    slices.load(layer, {"weight": slices.random(vocab_size, HIDDEN)}, Axis.alone(), buffered=True)
    x = slices.random(num_tokens, HIDDEN).requires_grad_(learns)
    with LargeTensors(76 * vocab_size) as made, torch.set_grad_enabled(learns):
        loss = layer(x, torch.arange(num_tokens) % vocab_size, 1 / num_tokens)
        if learns:
            loss.backward()
    assert made.largest == CHUNK_TOKENS * vocab_size
    assert made.peak == 1


def sent(context: RankContext, sequence_parallel: bool) -> tuple[list[Entry], list[Entry]]:
    ledger = Ledger()
    axis = slices.tensor_axis(context, ledger)
    layer = VocabParallelHead(1009, HIDDEN, axis, sequence_parallel=sequence_parallel)
    x = slices.local_leaf(layer.region, torch.ones(11, HIDDEN))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CHUNK_TOKENS", 8)
        loss = layer(x, torch.arange(11), 1.0)
    forward = list(ledger.entries)
    loss.backward()
    return forward, ledger.entries[len(forward) :]


def test_each_chunk_sends_three_numbers_a_token_and_never_logits(ranks: RankPool) -> None:
    chunks = [
        Entry("all_reduce", "tp", "float32", numbers * 4) for tokens in (8, 3) for numbers in (tokens, 2 * tokens)
    ]
    total = Entry("all_reduce", "tp", "float32", 11 * HIDDEN * 4)
    assert ranks.run(2, sent, False) == [(chunks, [total])] * 2
    gather, scatter = (Entry(kind, "tp", "float32", 12 * HIDDEN * 4) for kind in ("all_gather", "reduce_scatter"))
    assert ranks.run(2, sent, True) == [([gather, *chunks], [scatter])] * 2


def logits(context: RankContext, sequence_parallel: bool) -> Tensor:
    axis = slices.tensor_axis(context)
    layer = VocabParallelHead(1009, HIDDEN, axis, sequence_parallel=sequence_parallel)
    slices.load(layer, {"weight": Case().weight}, axis, buffered=False)
    with torch.no_grad():
        columns: Tensor = layer.logits(layer.region.local_rows(Case().x))
    return columns


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_logits_are_columns(ranks: RankPool, sequence_parallel: bool) -> None:
    found = slices.columns(ranks.run(3, logits, sequence_parallel), 11)
    slices.assert_close(found, Case().x @ Case().weight.t())


def test_low_precision_rows_have_a_float32_loss() -> None:
    layer = VocabParallelHead(1009, HIDDEN, Axis.alone()).to(torch.bfloat16)
    x = Case().x.to(torch.bfloat16).requires_grad_()
    loss = layer(x, Case().labels, Case().scale)
    loss.backward()
    exact = F.cross_entropy(x.float() @ layer.weight.float().t(), Case().labels, reduction="sum") * Case().scale
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=2**-8, atol=0)
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_the_table_is_its_own_or_the_given_one() -> None:
    tp = Axis("tp", (0, 1), 1)
    own = VocabParallelHead(1009, HIDDEN, tp, std=0.5)
    assert (spec_of(own.weight).shape, spec_of(own.weight).init.std) == ((1009, HIDDEN), 0.5)
    assert (own.weight.shape, own.start) == ((504, HIDDEN), 505)
    given = nn.Parameter(torch.empty(504, HIDDEN))
    assert VocabParallelHead(1009, HIDDEN, tp, weight=given).weight is given


def test_a_factor_after_the_loss_is_refused_where_the_weight_would_not_see_it() -> None:
    def loss_of(buffered: bool) -> Tensor:
        layer = VocabParallelHead(7, HIDDEN, Axis.alone("tp"))
        slices.load(layer, {"weight": slices.random(7, HIDDEN, seed=1)}, Axis.alone("tp"), buffered=buffered)
        loss: Tensor = layer(slices.random(3, HIDDEN, seed=5).requires_grad_(), torch.tensor([1, 2, 3]), 0.5)
        return loss

    (loss_of(buffered=True) + 3).backward()
    with pytest.raises(RuntimeError, match="the head's loss must end the graph"):
        (loss_of(buffered=True) * 3).backward()


def test_a_factor_after_the_loss_counts_where_autograd_keeps_the_gradient() -> None:
    """Outside an engine the weight's gradient is still autograd's to scale."""

    def gradients(factor: float, scale: float) -> tuple[Tensor | None, Tensor | None]:
        layer = VocabParallelHead(7, HIDDEN, Axis.alone("tp"))
        slices.load(layer, {"weight": slices.random(7, HIDDEN, seed=1)}, Axis.alone("tp"), buffered=False)
        x = slices.random(3, HIDDEN, seed=5).requires_grad_()
        (layer(x, torch.tensor([1, 2, 3]), scale) * factor).backward()
        return x.grad, layer.weight.grad

    torch.testing.assert_close(gradients(3.0, 0.5), gradients(1.0, 1.5), rtol=1e-13, atol=1e-15)
