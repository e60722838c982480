"""Oracle: autograd over the whole chain of blocks at once."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.parallel.pipeline.stage import Stage
from megalm.weight_half import WeightHalf, put_off
from tests.parallel.pipeline.blocks import HIDDEN, blocks, gradients, micro_batch, plain_run


def stage_of(chain: list[nn.Module]) -> Stage:
    return Stage(chain, WeightHalf())


def forward(stage: Stage, number: int = 0) -> Tensor:
    loss = stage.forward(number, None, BATCHES[number])
    assert isinstance(loss, Tensor)
    return loss.detach()


BATCHES = [micro_batch(0), micro_batch(1, samples=3), micro_batch(2)]


@pytest.mark.parametrize("by_block", [False, True])
def test_backward_by_blocks_gives_the_gradients_of_the_whole_chain(by_block: bool) -> None:
    ours, plain = blocks(), blocks()
    stage = stage_of(ours)
    losses = [forward(stage, number) for number in range(3)]
    for number in (1, 0, 2):  # all in flight together, and back in any order
        for block in (3, 2, 1, 0) if by_block else (None,):
            stage.backward(number, block=block)
    assert torch.equal(sum(losses, torch.zeros((), dtype=torch.float64)), plain_run(plain, BATCHES))
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=1e-13, atol=1e-15)


def test_each_blocks_gradient_is_done_with_its_backward_and_not_before() -> None:
    chain = blocks()
    stage = stage_of(chain)
    forward(stage)
    for block in (3, 2, 1, 0):
        assert next(chain[block].parameters()).grad is None
        stage.backward(0, block=block)
        assert next(chain[block].parameters()).grad is not None


def test_the_rest_of_a_backward_that_began_by_blocks() -> None:
    ours, plain = blocks(), blocks()
    stage = stage_of(ours)
    forward(stage)
    stage.backward(0, block=3)
    stage.backward(0)
    plain_run(plain, BATCHES[:1])
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=1e-13, atol=1e-15)


def test_blocks_out_of_order_are_refused() -> None:
    stage = stage_of(blocks())
    forward(stage)
    with pytest.raises(ValueError, match="block 2 comes before block 3 in the backward"):
        stage.backward(0, block=2)


def test_a_backward_happens_once() -> None:
    stage = stage_of(blocks())
    forward(stage)
    stage.backward(0)
    with pytest.raises(KeyError):
        stage.backward(0)


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 1), (3,), (0, 1, 2, 3)])
def test_frozen_blocks_are_passed_through(frozen: tuple[int, ...]) -> None:
    ours, plain = blocks(), blocks()
    for chain in (ours, plain):
        for block in frozen:
            chain[block].requires_grad_(False)
    stage = stage_of(ours)
    forward(stage)
    for block in (3, 2, 1, 0):
        stage.backward(0, block=block)
    plain_run(plain, BATCHES[:1])
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=1e-13, atol=1e-15)


def test_an_evaluation_keeps_nothing() -> None:
    stage = stage_of(blocks())
    with torch.no_grad():
        loss = forward(stage)
    assert torch.equal(loss, plain_run(blocks(), BATCHES[:1]))
    with pytest.raises(KeyError):
        stage.backward(0)


class Halved(nn.Module):
    """A linear whose weight product can be put off, as those of our own layers."""

    def __init__(self, half: WeightHalf) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(HIDDEN, dtype=torch.float64) / 2)
        self.weight.weight_half = half  # type: ignore[attr-defined]
        self.sum = torch.zeros_like(self.weight)

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return x + product.tanh()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Halved) -> Tensor:
        ctx.layer, ctx.x = layer, x
        return x @ layer.weight.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        layer: Halved = ctx.layer

        def product() -> None:
            layer.sum += gradients[0].t() @ ctx.x

        if not put_off([layer.weight], product):
            product()
        return gradients[0] @ layer.weight, None


def halved_chain(recomputed: tuple[int, ...] = ()) -> tuple[Stage, list[Halved], list[nn.Module]]:
    half = WeightHalf()
    entry, *_, loss = blocks()
    halved = [Halved(half), Halved(half)]
    chain: list[nn.Module] = [entry, *halved, loss]
    return Stage(chain, half, [chain[block] for block in recomputed]), halved, chain


@pytest.mark.parametrize("recomputed", [(), (1,), (1, 2)])
@pytest.mark.parametrize("by_block", [False, True])
def test_two_halves_are_the_whole_backward(by_block: bool, recomputed: tuple[int, ...]) -> None:
    whole, whole_layers, whole_chain = halved_chain()
    stage, layers, chain = halved_chain(recomputed)
    for number in (0, 1):
        forward(whole, number)
        whole.backward(number)
        forward(stage, number)
        stage.backward_input(number)
        assert all(not layer.sum.any() for layer in layers)
    for number in (1, 0):
        for block in (3, 2, 1, 0) if by_block else (None,):
            stage.backward_weight(number, block)
    for one, other in zip(whole_layers, layers, strict=True):
        torch.testing.assert_close(other.sum, one.sum, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(gradients(chain), gradients(whole_chain), rtol=1e-13, atol=1e-15)


def test_the_weight_half_goes_block_by_block_and_only_once() -> None:
    stage, layers, _ = halved_chain()
    forward(stage)
    stage.backward_input(0)
    stage.backward_weight(0, 3)
    stage.backward_weight(0, 2)
    assert layers[1].sum.any()
    assert not layers[0].sum.any()
    with pytest.raises(ValueError, match="block 0 is not the next one of the weight half"):
        stage.backward_weight(0, 0)
    stage.backward_weight(0)
    assert layers[0].sum.any()
    with pytest.raises(KeyError):
        stage.backward_weight(0)


class HeldRows:
    """A put-off product that says what it holds."""

    def __init__(self) -> None:
        self.holds = [torch.ones(3)]

    def __call__(self) -> None:
        self.holds.clear()


def test_a_stage_names_what_put_off_products_hold() -> None:
    """Oracle: what the product says that it holds, between the two halves."""
    half, work = WeightHalf(), HeldRows()
    entry, middle, _, loss = blocks()
    stage = Stage([entry, middle, loss], half)

    def leave(*_: object) -> None:
        half.take(work)
        half.take(lambda: None)

    middle.register_full_backward_hook(leave)
    forward(stage, 0)
    assert list(stage.holds()) == []

    stage.backward_input(0)
    assert [tensor is work.holds[0] for tensor in stage.holds()] == [True]
    stage.backward_weight(0)
    assert list(stage.holds()) == []


class Splits(nn.Module):
    """Rows to a named set: rows, the same rows for the end, and numbers without gradient."""

    def forward(self, x: Tensor, batch: MicroBatch) -> dict[str, Tensor]:
        return {"rows": x * 2, "kept": x * 3, "numbers": batch.tokens_bs.flatten(), "unused": x * 5}


class Joins(nn.Module):
    """The named set to rows; one of its tensors is not read."""

    def forward(self, flow: dict[str, Tensor], batch: MicroBatch) -> Tensor:
        return flow["rows"] * flow["kept"] + flow["numbers"].unsqueeze(1)


def test_a_named_set_flows_from_block_to_block_and_from_stage_to_stage() -> None:
    def chain() -> list[nn.Module]:
        entry, middle, _, loss = blocks()
        return [entry, Splits(), Joins(), middle, loss]

    plain, ours, cut = chain(), chain(), chain()
    plain_run(plain, BATCHES[:1])
    stage = stage_of(ours)
    forward(stage)
    stage.backward(0)
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=1e-13, atol=1e-15)
    first, second = stage_of(cut[:2]), stage_of(cut[2:])
    flow = first.forward(0, None, BATCHES[0])
    second.forward(0, flow, BATCHES[0])
    back = second.backward(0)
    assert {name for name, gradient in back.items() if gradient is not None} == {"rows", "kept"}
    assert first.backward(0, back) == {}
    torch.testing.assert_close(gradients(cut), gradients(plain), rtol=1e-13, atol=1e-15)


def test_what_flowed_on_is_not_kept() -> None:
    """The next stage has the rows; this one needs only where its graph ends."""
    stage = stage_of(blocks()[:2])
    flow = stage.forward(0, None, BATCHES[0])
    assert isinstance(flow, Tensor)
    alive = weakref.ref(flow)
    del flow
    assert alive() is None
    stage.backward(0, {"": torch.ones(6, HIDDEN, dtype=torch.float64)})
