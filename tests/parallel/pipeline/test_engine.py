"""Oracle: the program, word by word, and autograd over the whole chain of blocks."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.layout import Layout
from megalm.mesh import Mesh
from megalm.parallel.pipeline.action import Action, Kind
from megalm.parallel.pipeline.engine import Engine
from megalm.parallel.pipeline.entry import Gradients
from megalm.parallel.pipeline.flow import Flow
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedule import program_of
from megalm.parallel.pipeline.stage import Stage
from megalm.parallel.pipeline.transport import Transport
from megalm.weight_half import WeightHalf
from tests.parallel.pipeline.blocks import blocks, gradients, micro_batch, plain_run
from tests.ranks import RankContext, RankPool

BATCHES = [micro_batch(0), micro_batch(1, samples=3)]


class WatchedStage(Stage):
    """Writes down what it is asked."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(blocks(), WeightHalf())
        self.events = events

    def forward(self, number: int, flow: Flow | None, microbatch: MicroBatch, block: int | None = None) -> Flow | None:
        assert microbatch is BATCHES[number]
        self.events.append(f"0F{number}" if block is None else f"0F{number}/{block}")
        return super().forward(number, flow, microbatch, block)

    def backward(self, number: int, gradients: Gradients | None = None, block: int | None = None) -> Gradients:
        self.events.append(f"0B{number}" if block is None else f"0B{number}/{block}")
        return super().backward(number, gradients, block)


class WatchedParameters:
    """Writes down what is asked for parameters."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def gather(self, place: tuple[int, int]) -> None:
        self.events.append("{}UNSHARD/{}".format(*place))

    def ready(self, place: tuple[int, int]) -> None:
        pass

    def release(self, place: tuple[int, int]) -> None:
        self.events.append("{}RESHARD/{}".format(*place))

    def reduce(self, place: tuple[int, int]) -> None:
        self.events.append("{}REDUCE_GRAD/{}".format(*place))

    def finish(self) -> None:
        self.events.append("finish")


def watched() -> tuple[Engine, list[str]]:
    events: list[str] = []
    engine = Engine(
        0,
        {0: WatchedStage(events)},
        None,
        WatchedParameters(events),
    )
    return engine, events


def one_stage(num_microbatches: int, num_blocks: int = 4) -> Program:
    return with_reductions(program_of("1f1b", 1, num_microbatches, 1), [num_blocks])


def test_the_program_is_what_runs_and_what_is_recorded() -> None:
    engine, events = watched()
    recorded: list[tuple[Action, float, float]] = []
    engine.record = lambda *entry: recorded.append(entry)
    program = one_stage(2)
    engine.run(program, BATCHES)
    assert events == [*map(str, program.ranks[0]), "finish"]
    assert tuple(action for action, _, _ in recorded) == program.ranks[0]
    times = [time for _, start, end in recorded for time in (start, end)]
    assert times == sorted(times)


def test_the_loss_is_the_sum_of_the_micro_batches_and_the_gradients_are_autograds() -> None:
    engine, _ = watched()
    plain = blocks()
    loss = engine.run(one_stage(2), BATCHES)
    assert loss.dtype == torch.float64
    assert loss.shape == (2,)
    assert torch.equal(loss.sum(), plain_run(plain, BATCHES))
    torch.testing.assert_close(gradients(list(engine.stages[0].blocks)), gradients(plain), rtol=1e-13, atol=1e-15)


def test_a_rank_without_micro_batches_still_reduces() -> None:
    engine, events = watched()
    assert engine.run(one_stage(0, 2), []).tolist() == []
    assert events == ["0REDUCE_GRAD/1", "0REDUCE_GRAD/0", "finish"]


def test_an_evaluation_reduces_nothing_and_keeps_nothing() -> None:
    engine, events = watched()
    program = Program.of([[Action(0, Kind.FORWARD, 0), Action(0, Kind.FORWARD, 1)]])
    loss = engine.evaluate(program, BATCHES)
    assert events == ["0F0", "0F1"]
    assert torch.equal(loss, plain_run(blocks(), BATCHES))
    with pytest.raises(KeyError):
        engine.stages[0].backward(0)


class Doubles(nn.Module):
    """Rows to two tensors with gradient and one without, which the last block reads."""

    def forward(self, x: Tensor, batch: MicroBatch) -> dict[str, Tensor]:
        return {"rows": x, "other": 2 * x, "tokens": batch.tokens_bs.flatten().unsqueeze(1)}


class Joins(nn.Module):
    """The three to rows."""

    def forward(self, flow: dict[str, Tensor], batch: MicroBatch) -> Tensor:
        return flow["rows"] * flow["other"].sin() + flow["tokens"] / 10


def chain_of_6() -> list[nn.Module]:
    entry, first, second, loss = blocks()
    return [entry, first, Doubles(), Joins(), second, loss]


UNEVEN = [micro_batch(0), micro_batch(1), micro_batch(2, samples=1), micro_batch(3, samples=3), micro_batch(4)]


@dataclass(frozen=True)
class Outcome:
    """What a rank saw: losses of two steps and of an evaluation, and its blocks' gradients by number."""

    losses: list[Tensor]
    gradients: dict[int, list[Tensor | None]]


def pipelined(context: RankContext, schedule: str, stages_per_rank: int, num_microbatches: int) -> Outcome:
    mesh = Mesh.build(Layout(pp=context.num_ranks), timeout_s=20)
    chain, batches = chain_of_6(), UNEVEN[:num_microbatches]
    compute = program_of(schedule, context.num_ranks, num_microbatches, stages_per_rank)
    holder = compute.rank_of_stage
    cuts = [range(stage * 6 // len(holder), (stage + 1) * 6 // len(holder)) for stage in holder]
    held = [stage for stage in holder if holder[stage] == mesh.pp.rank]
    half = WeightHalf()
    engine = Engine(
        mesh.pp.rank,
        {stage: Stage([chain[block] for block in cuts[stage]], half) for stage in held},
        Transport(mesh.pp, mesh.pp_upward, mesh.device),
        WatchedParameters([]),
    )
    program = with_communication(with_reductions(compute, [len(cut) for cut in cuts]))
    forwards = with_communication(
        Program.of([a for a in actions if a.kind is Kind.FORWARD] for actions in compute.ranks)
    )
    losses = [engine.run(program, batches), engine.evaluate(forwards, batches), engine.run(program, batches)]
    return Outcome(losses, {block: gradients([chain[block]]) for stage in held for block in cuts[stage]})


@pytest.mark.parametrize(
    ("schedule", "ranks_", "stages_per_rank", "num_microbatches"),
    [("1f1b", 2, 1, 5), ("gpipe", 3, 1, 4), ("interleaved", 2, 3, 3), ("zb-v", 3, 2, 5), ("1f1b", 4, 1, 1)],
)
def test_ranks_together_do_what_one_chain_does(
    ranks: RankPool, schedule: str, ranks_: int, stages_per_rank: int, num_microbatches: int
) -> None:
    """Two steps and an evaluation; micro-batches of other sizes in between, a named set over one border."""
    outcomes = ranks.run(ranks_, pipelined, schedule, stages_per_rank, num_microbatches)
    plain, batches = chain_of_6(), UNEVEN[:num_microbatches]
    wanted = plain_run(plain, batches)
    plain_run(plain, batches)
    for index in range(3):
        total = torch.stack([outcome.losses[index].sum() for outcome in outcomes]).sum()
        torch.testing.assert_close(total, wanted, rtol=1e-13, atol=0)
        assert sum(bool(outcome.losses[index].any()) for outcome in outcomes) == 1
    found = {block: held for outcome in outcomes for block, held in outcome.gradients.items()}
    assert sorted(found) == list(range(6))
    for block, expected in enumerate(plain):
        torch.testing.assert_close(found[block], gradients([expected]), rtol=1e-12, atol=1e-14)
