"""Oracle: torch.nn.Linear and autograd in float64, on one process."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from megalm import collectives
from megalm.ledger import Entry, Ledger
from megalm.mesh import Axis
from megalm.parallel.tensor import linear
from megalm.parallel.tensor.gradient import add_product
from megalm.parallel.tensor.linear import ColumnParallelLinear, ReplicatedLinear, RowParallelLinear, column_products
from megalm.parameters import spec_of
from tests.parallel.sums import sum_of
from tests.parallel.tensor import slices
from tests.parallel.tensor.slices import Found
from tests.ranks import RankContext, RankPool

HIDDEN, INNER = 6, 7


@dataclass(frozen=True)
class Case:
    """One setting of a layer."""

    num_tokens: int = 5
    sequence_parallel: bool = False
    buffered: bool = False
    bias: bool = True


CASES = [
    Case(tokens, sp, buffered, bias)
    for tokens in (6, 5, 1)
    for sp in (False, True)
    for buffered, bias in ((False, True), (True, True), (True, False))
]
SIZES = (1, 2, 3)


def wholes(prefix: str = "", *, out: int, inner: int) -> dict[str, Tensor]:
    seed = len(prefix)
    return {prefix + "weight": slices.random(out, inner, seed=seed + 1), prefix + "bias": slices.random(out, seed=seed)}


def rank_columns(whole: Tensor, layer: ColumnParallelLinear, axis: Axis) -> Tensor:
    """Return the columns of a whole gradient that a rank's outputs have, with zeros for the padding rows."""
    part = spec_of(layer.weight).local_slices({"tp": axis.rank})[0]
    return layer.region.pad(whole)[:, part]


def column(context: RankContext, cases: list[Case]) -> list[Found]:
    axis = slices.tensor_axis(context)
    found = []
    for case in cases:
        layer = ColumnParallelLinear(HIDDEN, INNER, axis, bias=case.bias, sequence_parallel=case.sequence_parallel)
        slices.load(layer, wholes(out=INNER, inner=HIDDEN), axis, buffered=case.buffered)
        x = slices.local_leaf(layer.region, slices.random(case.num_tokens, HIDDEN, seed=5))
        out = layer(x)
        out.backward(rank_columns(slices.random(case.num_tokens, INNER, seed=6), layer, axis))
        found.append(slices.gather(layer, out, x, buffered=case.buffered))
    return found


def row(context: RankContext, cases: list[Case]) -> list[Found]:
    axis = slices.tensor_axis(context)
    found = []
    for case in cases:
        layer = RowParallelLinear(INNER, HIDDEN, axis, bias=case.bias, sequence_parallel=case.sequence_parallel)
        slices.load(layer, wholes(out=HIDDEN, inner=INNER), axis, buffered=case.buffered)
        part = spec_of(layer.weight).local_slices({"tp": axis.rank})[1]
        x = slices.random(case.num_tokens, INNER, seed=5)[:, part].clone().requires_grad_()
        out = layer(x)
        out.backward(layer.region.local_rows(slices.random(case.num_tokens, HIDDEN, seed=6)))
        found.append(slices.gather(layer, out, x, buffered=case.buffered))
    return found


def plain(out_features: int, in_features: int, case: Case) -> tuple[nn.Linear, Tensor, Tensor]:
    """Return the plain layer after its backward, its input and its output."""
    layer = nn.Linear(in_features, out_features, bias=case.bias, dtype=torch.float64)
    for name, parameter in layer.named_parameters():
        parameter.data.copy_(wholes(out=out_features, inner=in_features)[name])
    x = slices.random(case.num_tokens, in_features, seed=5).requires_grad_()
    out = layer(x)
    out.backward(slices.random(case.num_tokens, out_features, seed=6))
    return layer, x, out


@pytest.mark.parametrize("size", SIZES)
def test_column_parallel_is_linear(ranks: RankPool, size: int) -> None:
    for case, *found in zip(CASES, *ranks.run(size, column, CASES), strict=True):
        layer, x, out = plain(INNER, HIDDEN, case)
        assert x.grad is not None
        slices.assert_close(slices.columns([one.out for one in found], case.num_tokens), out.detach())
        dx = [one.dx for one in found if one.dx is not None]
        slices.assert_close(slices.whole_rows(dx, case.num_tokens, cut=case.sequence_parallel), x.grad)
        slices.assert_gradients(found, slices.gradients_of(layer))


@pytest.mark.parametrize("size", SIZES)
def test_row_parallel_is_linear(ranks: RankPool, size: int) -> None:
    for case, *found in zip(CASES, *ranks.run(size, row, CASES), strict=True):
        layer, x, out = plain(HIDDEN, INNER, case)
        assert x.grad is not None
        outs = [one.out for one in found]
        slices.assert_close(slices.whole_rows(outs, case.num_tokens, cut=case.sequence_parallel), out.detach())
        slices.assert_close(torch.cat([one.dx for one in found if one.dx is not None], 1), x.grad)
        slices.assert_gradients(found, slices.gradients_of(layer))


class Span(nn.Module):
    """Two column-parallel layers of the same rows, of which one may be uneven on purpose, and a row-parallel one."""

    def __init__(self, axis: Axis, sequence_parallel: bool) -> None:
        super().__init__()
        ranges = ((0, INNER),) if axis.size == 1 else ((0, 1), (1, INNER), *[(INNER, INNER)] * (axis.size - 2))
        self.up = ColumnParallelLinear(HIDDEN, INNER, axis, ranges=ranges, sequence_parallel=sequence_parallel)
        self.gate = ColumnParallelLinear(HIDDEN, INNER, axis, ranges=ranges, sequence_parallel=sequence_parallel)
        self.down = RowParallelLinear(INNER, HIDDEN, axis, ranges=ranges, sequence_parallel=sequence_parallel)

    def forward(self, x: Tensor) -> Tensor:
        up, gate = column_products(x, (self.up, self.gate))
        rows: Tensor = self.down(up * gate.tanh())
        return rows


class PlainSpan(nn.Module):
    """The same in plain torch."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(HIDDEN, INNER), nn.Linear(HIDDEN, INNER)
        self.down = nn.Linear(INNER, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.down(self.up(x) * self.gate(x).tanh())
        return rows


SPAN = {
    **wholes("up.", out=INNER, inner=HIDDEN),
    **wholes("gate.", out=INNER, inner=HIDDEN),
    **wholes("down.", out=HIDDEN, inner=INNER),
}


def span(context: RankContext, num_tokens: int, sequence_parallel: bool) -> Found:
    axis = slices.tensor_axis(context)
    layer = Span(axis, sequence_parallel)
    slices.load(layer, SPAN, axis, buffered=True)
    whole = slices.random(num_tokens, HIDDEN, seed=5)
    x = slices.local_leaf(layer.up.region, whole)
    for _ in range(2):  # gradients of micro-batches add up
        out = layer(x)
        out.backward(layer.up.region.local_rows(slices.random(num_tokens, HIDDEN, seed=6)))
    return slices.gather(layer, out, x, buffered=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_a_span_of_uneven_and_empty_cuts_sums_the_gradients_of_two_passes(
    ranks: RankPool, size: int, sequence_parallel: bool
) -> None:
    found = ranks.run(size, span, 5, sequence_parallel)
    plain_span = PlainSpan().double()
    for name, parameter in plain_span.named_parameters():
        parameter.data.copy_(SPAN[name])
    x = slices.random(5, HIDDEN, seed=5).requires_grad_()
    for _ in range(2):
        out = plain_span(x)
        out.backward(slices.random(5, HIDDEN, seed=6))
    assert x.grad is not None
    cut = sequence_parallel
    slices.assert_close(slices.whole_rows([one.out for one in found], 5, cut=cut), out.detach())
    slices.assert_close(slices.whole_rows([one.dx for one in found if one.dx is not None], 5, cut=cut), x.grad)
    slices.assert_gradients(found, slices.gradients_of(plain_span))


def frozen(context: RankContext, sequence_parallel: bool) -> tuple[Tensor, dict[str, bool], list[str]]:
    """Freeze the weights of the first and the last layer; return dx, who has a gradient, and the collectives."""
    ledger = Ledger()
    axis = slices.tensor_axis(context, ledger)
    layer = Span(axis, sequence_parallel)
    slices.load(layer, SPAN, axis, buffered=False)
    for parameter in (layer.up.weight, layer.gate.weight, layer.down.weight):
        parameter.requires_grad_(False)
    x = slices.local_leaf(layer.up.region, slices.random(4, HIDDEN, seed=5))
    out = layer(x)
    ledger.entries.clear()
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    learned = {name: parameter.grad is not None for name, parameter in layer.named_parameters()}
    return x.grad, learned, [entry.kind for entry in ledger.entries]


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_frozen_weights_have_no_gradient_and_need_no_rows(ranks: RankPool, sequence_parallel: bool) -> None:
    found = ranks.run(2, frozen, sequence_parallel)
    plain_span = PlainSpan().double()
    for name, parameter in plain_span.named_parameters():
        parameter.data.copy_(SPAN[name])
    x = slices.random(4, HIDDEN, seed=5).requires_grad_()
    plain_span(x).sum().backward()
    assert x.grad is not None
    slices.assert_close(slices.whole_rows([dx for dx, _, _ in found], 4, cut=sequence_parallel), x.grad)
    for _, learned, kinds in found:
        assert {name for name, has in learned.items() if has} == {"up.bias", "gate.bias", "down.bias"}
        assert kinds == (["all_gather", "reduce_scatter"] if sequence_parallel else ["all_reduce"])


def sent(context: RankContext, sequence_parallel: bool, wants_dx: bool) -> tuple[list[Entry], list[Entry]]:
    """Return what a forward and what a backward of a span sends."""
    ledger = Ledger()
    axis = slices.tensor_axis(context, ledger)
    layer = Span(axis, sequence_parallel)
    slices.load(layer, SPAN, axis, buffered=True)
    x = slices.local_leaf(layer.up.region, slices.random(5, HIDDEN, seed=5)).requires_grad_(wants_dx)
    out = layer(x)
    forward = list(ledger.entries)
    out.backward(torch.ones_like(out))
    return forward, ledger.entries[len(forward) :]


def test_a_span_sums_once_forward_and_once_backward(ranks: RankPool) -> None:
    one = Entry("all_reduce", "tp", "float64", 5 * HIDDEN * 8)
    assert ranks.run(2, sent, False, True) == [([one], [one])] * 2
    assert ranks.run(2, sent, False, False) == [([one], [])] * 2


def test_under_sequence_parallelism_gathers_and_scatters_take_the_place_of_sums(ranks: RankPool) -> None:
    gather, scatter = (Entry(kind, "tp", "float64", 6 * HIDDEN * 8) for kind in ("all_gather", "reduce_scatter"))
    assert ranks.run(2, sent, True, True) == [([gather, scatter], [gather, gather, scatter])] * 2
    assert ranks.run(2, sent, True, False) == [([gather, scatter], [gather, gather])] * 2


def test_alone_nothing_is_sent() -> None:
    context = RankContext(0, 1)
    assert sent(context, True, True) == sent(context, False, True) == ([], [])


@dataclass
class Watched:
    """A collective under way that tells when it was waited for."""

    work: collectives.Handle
    events: list[str]

    def wait(self) -> None:
        self.work.wait()
        self.events.append("wait")


def order(context: RankContext, sequence_parallel: bool) -> list[str]:
    """Return the order of a column-parallel backward."""
    axis = slices.tensor_axis(context)
    layer = ColumnParallelLinear(HIDDEN, INNER, axis, bias=False, sequence_parallel=sequence_parallel)
    slices.load(layer, wholes(out=INNER, inner=HIDDEN), axis, buffered=True)
    x = slices.local_leaf(layer.region, slices.random(4, HIDDEN))
    out = layer(x)
    events: list[str] = []

    def product(weight: Tensor, dy_to: Tensor, x_ti: Tensor) -> Tensor | None:
        events.append("weight product")
        return add_product(weight, dy_to, x_ti)

    def all_reduce(tensor: Tensor, axis: Axis) -> collectives.Handle:
        events.append("start sum")
        return Watched(whole_all_reduce(tensor, axis), events)

    def reduce_scatter(tensor: Tensor, axis: Axis) -> tuple[Tensor, collectives.Handle]:
        events.append("start sum")
        share, work = whole_reduce_scatter(tensor, axis)
        return share, Watched(work, events)

    whole_all_reduce, whole_reduce_scatter = collectives.all_reduce_async, collectives.reduce_scatter_rows_async
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "add_product", product)
        patch.setattr(collectives, "all_reduce_async", all_reduce)
        patch.setattr(collectives, "reduce_scatter_rows_async", reduce_scatter)
        out.backward(torch.ones_like(out))
    return events


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_the_sum_of_the_input_gradient_runs_behind_the_weight_product(ranks: RankPool, sequence_parallel: bool) -> None:
    assert ranks.run(2, order, sequence_parallel) == [["start sum", "weight product", "wait"]] * 2


@pytest.mark.parametrize("buffered", [False, True])
def test_an_output_that_nobody_uses_has_no_gradient(buffered: bool) -> None:
    axis = Axis.alone("tp")
    layer = Span(axis, False)
    slices.load(layer, SPAN, axis, buffered=buffered)
    x = slices.random(3, HIDDEN).requires_grad_()
    up, _ = column_products(x, (layer.up, layer.gate))
    up.sum().backward()
    assert x.grad is not None
    slices.assert_close(x.grad, SPAN["up.weight"].sum(0).expand(3, -1))
    gate = sum_of(layer.gate.weight) if buffered else layer.gate.weight.grad
    assert gate is not None
    assert not gate.any()


def test_a_layer_is_usable_by_itself() -> None:
    layer = ColumnParallelLinear(300, 500, Axis.alone(), std=0.3)
    assert abs(layer.weight.std().item() - 0.3) < 0.01
    assert layer.bias is not None
    assert not layer.bias.any()
    assert RowParallelLinear(3, 4, Axis.alone(), bias=False).bias is None


def test_what_the_specs_say() -> None:
    tp = Axis("tp", (0, 1), 1)
    up = ColumnParallelLinear(HIDDEN, INNER, tp, sequence_parallel=True)
    down = RowParallelLinear(INNER, HIDDEN, tp, sequence_parallel=True)
    specs = {
        name: spec_of(parameter) for name, parameter in [*up.named_parameters("up"), *down.named_parameters("down")]
    }
    assert {
        name: (spec.shape, spec.split and spec.split.dim, spec.partial_over, spec.decay) for name, spec in specs.items()
    } == {
        "up.weight": ((INNER, HIDDEN), 0, (), True),
        "up.bias": ((INNER,), 0, (), False),
        "down.weight": ((HIDDEN, INNER), 1, (), True),
        "down.bias": ((HIDDEN,), None, ("tp",), False),
    }
    whole = RowParallelLinear(INNER, HIDDEN, tp)
    assert whole.bias is not None
    assert spec_of(whole.bias).partial_over == ()


@pytest.mark.parametrize("buffered", [False, True])
def test_a_replicated_layer_is_a_plain_one(buffered: bool) -> None:
    layer = ReplicatedLinear(HIDDEN, INNER)
    values = wholes(out=INNER, inner=HIDDEN)
    slices.load(layer, values, Axis.alone(), buffered=buffered)
    x, told = slices.random(5, HIDDEN, seed=5).requires_grad_(), slices.random(5, INNER, seed=6)
    out = layer(x)
    out.backward(told)
    found = slices.gather(layer, out, x, buffered=buffered)

    plain = {name: value.requires_grad_() for name, value in values.items()}
    again = x.detach().clone().requires_grad_()
    torch.nn.functional.linear(again, plain["weight"], plain["bias"]).backward(told)
    assert found.dx is not None
    assert again.grad is not None
    slices.assert_close(found.dx, again.grad)
    slices.assert_gradients([found], {name: tensor.grad for name, tensor in plain.items()})
