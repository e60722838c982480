"""Oracle: autograd over the whole chain of blocks at once."""

import pytest
import torch

from megalm.parallel.pipeline.stage import Stage
from tests.parallel.pipeline.blocks import blocks, gradients, micro_batch, plain_run

BATCHES = [micro_batch(0), micro_batch(1, samples=3), micro_batch(2)]


@pytest.mark.parametrize("by_block", [False, True])
def test_backward_by_blocks_gives_the_gradients_of_the_whole_chain(by_block: bool) -> None:
    ours, plain = blocks(), blocks()
    stage = Stage(ours)
    losses = [stage.forward(number, batch) for number, batch in enumerate(BATCHES)]
    for number in (1, 0, 2):  # all in flight together, and back in any order
        for block in (3, 2, 1, 0) if by_block else (None,):
            stage.backward(number, block)
    assert torch.equal(sum(losses, torch.zeros((), dtype=torch.float64)), plain_run(plain, BATCHES))
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=1e-13, atol=1e-15)


def test_each_blocks_gradient_is_done_with_its_backward_and_not_before() -> None:
    chain = blocks()
    stage = Stage(chain)
    stage.forward(0, BATCHES[0])
    for block in (3, 2, 1, 0):
        assert next(chain[block].parameters()).grad is None
        stage.backward(0, block)
        assert next(chain[block].parameters()).grad is not None


def test_the_rest_of_a_backward_that_began_by_blocks() -> None:
    ours, plain = blocks(), blocks()
    stage = Stage(ours)
    stage.forward(0, BATCHES[0])
    stage.backward(0, 3)
    stage.backward(0, None)
    plain_run(plain, BATCHES[:1])
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=1e-13, atol=1e-15)


def test_blocks_out_of_order_are_refused() -> None:
    stage = Stage(blocks())
    stage.forward(0, BATCHES[0])
    with pytest.raises(ValueError, match="block 2 comes before block 3 in the backward"):
        stage.backward(0, 2)


def test_a_backward_happens_once() -> None:
    stage = Stage(blocks())
    stage.forward(0, BATCHES[0])
    stage.backward(0, None)
    with pytest.raises(KeyError):
        stage.backward(0, None)


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 1), (3,), (0, 1, 2, 3)])
def test_frozen_blocks_are_passed_through(frozen: tuple[int, ...]) -> None:
    ours, plain = blocks(), blocks()
    for chain in (ours, plain):
        for block in frozen:
            chain[block].requires_grad_(False)
    stage = Stage(ours)
    stage.forward(0, BATCHES[0])
    for block in (3, 2, 1, 0):
        stage.backward(0, block)
    plain_run(plain, BATCHES[:1])
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=1e-13, atol=1e-15)


def test_an_evaluation_keeps_nothing() -> None:
    stage = Stage(blocks())
    with torch.no_grad():
        loss = stage.forward(0, BATCHES[0])
    assert torch.equal(loss, plain_run(blocks(), BATCHES[:1]))
    with pytest.raises(KeyError):
        stage.backward(0, None)


def test_a_loss_keeps_no_graph_alive() -> None:
    assert not Stage(blocks()).forward(0, BATCHES[0]).requires_grad
