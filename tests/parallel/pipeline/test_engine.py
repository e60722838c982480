"""Oracle: the program, word by word, and autograd over the whole chain of blocks."""

import torch
from torch import Tensor

from megalm.batch import MicroBatch
from megalm.parallel.pipeline.engine import Engine
from megalm.parallel.pipeline.program import forward_only, one_stage, with_reductions
from megalm.parallel.pipeline.stage import Stage
from tests.parallel.pipeline.blocks import blocks, gradients, micro_batch, plain_run

BATCHES = [micro_batch(0), micro_batch(1, samples=3)]


class WatchedStage(Stage):
    """Writes down what it is asked."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(blocks())
        self.events = events

    def forward(self, number: int, microbatch: MicroBatch) -> Tensor:
        assert microbatch is BATCHES[number]
        self.events.append(f"0F{number}")
        return super().forward(number, microbatch)

    def backward(self, number: int, block: int | None) -> None:
        self.events.append(f"0B{number}" if block is None else f"0B{number}/{block}")
        super().backward(number, block)


def watched() -> tuple[Engine, list[str]]:
    events: list[str] = []
    engine = Engine(
        WatchedStage(events),
        reduce=lambda block: events.append(f"0R/{block}"),
        finish=lambda: events.append("finish"),
    )
    return engine, events


def test_the_program_is_what_runs() -> None:
    engine, events = watched()
    program = with_reductions(one_stage(2), 4)
    engine.run(program, BATCHES)
    assert events == [*map(str, program), "finish"]


def test_the_loss_is_the_sum_of_the_micro_batches_and_the_gradients_are_autograds() -> None:
    engine, _ = watched()
    plain = blocks()
    loss = engine.run(with_reductions(one_stage(2), 4), BATCHES)
    assert loss.dtype == torch.float64
    assert torch.equal(loss, plain_run(plain, BATCHES))
    torch.testing.assert_close(gradients(list(engine.stage.blocks)), gradients(plain), rtol=1e-13, atol=1e-15)


def test_a_rank_without_micro_batches_still_reduces() -> None:
    engine, events = watched()
    assert engine.run(with_reductions(one_stage(0), 2), []).item() == 0
    assert events == ["0R/1", "0R/0", "finish"]


def test_an_evaluation_reduces_nothing() -> None:
    engine, events = watched()
    with torch.no_grad():
        loss = engine.run(forward_only(2), BATCHES)
    assert events == ["0F0", "0F1", "finish"]
    assert torch.equal(loss, plain_run(blocks(), BATCHES))
