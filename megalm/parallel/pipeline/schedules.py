"""The schedules with one stage a rank or several in turn: pure functions that return programs. No torch.

Each takes the number of ranks, of micro-batches and of stages on a rank, and returns what the ranks compute: forwards
(``F``), whole backwards (``B``), or backwards in two halves (``I`` and ``W``). Any number of micro-batches gives a
complete program. In the tables every action takes one step and a dot is an idle one.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from megalm.parallel.pipeline.action import Action, Kind
from megalm.parallel.pipeline.program import Program


def forwards(rank_of_stage: Sequence[int], num_ranks: int, num_microbatches: int) -> Program:
    """Return the program of an evaluation: each stage takes all micro-batches, then the rank's next stage does.

    Args:
        rank_of_stage: where the stages lie.
        num_ranks: of the pipeline.
        num_microbatches: of the evaluation; it may differ from that of a step.
    """
    return Program.of(
        [
            Action(stage, Kind.FORWARD, number)
            for stage, holder in enumerate(rank_of_stage)
            if holder == rank
            for number in range(num_microbatches)
        ]
        for rank in range(num_ranks)
    )


def gpipe(num_ranks: int, num_microbatches: int, stages_per_rank: int = 1) -> Program:
    """Return all forwards, then all backwards: the simplest order, with every micro-batch in flight at its middle.

    ::

        rank 0  0F0 0F1 0F2  .   .  0B0 0B1 0B2
        rank 1   .  1F0 1F1 1F2 1B0 1B1 1B2  .

    With m micro-batches on p ranks (p-1)/(m+p-1) of the time is idle.

    Huang et al. 2019, "GPipe".
    """
    require_stages("gpipe", 1, stages_per_rank)
    return Program.of(
        _forwards_ahead(*_one_stage(rank, num_microbatches), num_microbatches) for rank in range(num_ranks)
    )


def one_f_one_b(num_ranks: int, num_microbatches: int, stages_per_rank: int = 1) -> Program:
    """Return as few forwards as fill the pipeline, then a forward and a backward in turn.

    ::

        rank 0  0F0 0F1  .  0B0 0F2 0B1  .  0B2
        rank 1   .  1F0 1B0 1F1 1B1 1F2 1B2  .

    As much time is idle as under GPipe, but rank r of p keeps min(m, p-r) micro-batches instead of all m. One rank is
    ``0F0 0B0 0F1 0B1 ...``: each backward right after its forward.

    Narayanan et al. 2019, "PipeDream"; Narayanan et al. 2021, "Memory-Efficient Pipeline-Parallel DNN Training".
    """
    require_stages("1f1b", 1, stages_per_rank)
    return Program.of(
        _forwards_ahead(*_one_stage(rank, num_microbatches), num_ranks - 1 - rank) for rank in range(num_ranks)
    )


def interleaved(num_ranks: int, num_microbatches: int, stages_per_rank: int = 2) -> Program:
    """Return 1F1B over several stages a rank, stage s on rank s % p, which makes each idle wait shorter.

    ::

        rank 0  0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1  .  2B2  .  2B3 0B2 0B3
        rank 1   .  1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3  .

    The micro-batches go in rounds of at least p: every round passes through all stages of a rank before the next
    begins. With v stages a rank and whole rounds of p, (p-1)/(vm+p-1) of the time is idle. Rounds that cannot be equal
    differ by one micro-batch, the longer ones first: a later round then never needs more forwards ahead than the first.

    Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM".
    """
    rounds = _rounds(num_microbatches, max(1, num_microbatches // num_ranks))
    turns = [(chunk, number) for numbers in rounds for chunk in range(stages_per_rank) for number in numbers]
    ranks = []
    for rank in range(num_ranks):
        forwards = [Action(rank + num_ranks * chunk, Kind.FORWARD, number) for chunk, number in turns]
        backwards = [
            Action(rank + num_ranks * (stages_per_rank - 1 - chunk), Kind.BACKWARD, number) for chunk, number in turns
        ]
        ahead = (stages_per_rank - 1) * len(rounds[0]) + 2 * (num_ranks - 1 - rank)
        ranks.append(_forwards_ahead(forwards, backwards, ahead))
    return Program.of(ranks)


def zb_h1(num_ranks: int, num_microbatches: int, stages_per_rank: int = 1) -> Program:
    """Return 1F1B with backwards in halves: the weights' halves wait, and fill what would be idle.

    ::

        rank 0  0F0 0F1 0F2  .   .  0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
        rank 1   .  1F0 1F1  .  1I0 1F2 1I1 1W0 1F3 1I2 1W1 1I3 1W2 1W3
        rank 2   .   .  2F0 2I0 2F1 2I1 2F2 2I2 2W0 2F3 2I3 2W1 2W2 2W3

    If ``F``, ``I`` and ``W`` take equal time, (p-1)/(3m+p-1) of it is idle, a third of 1F1B's. Counted until its ``W``,
    every rank keeps min(m, p) micro-batches.

    Qi et al. 2023, "Zero Bubble Pipeline Parallelism".
    """
    require_stages("zb-h1", 1, stages_per_rank)
    return Program.of(_halves(rank, num_microbatches, ahead=num_ranks - rank, delay=rank) for rank in range(num_ranks))


def zb_h2(num_ranks: int, num_microbatches: int, stages_per_rank: int = 1) -> Program:
    """Return ZB-H1 with more forwards ahead, so that no rank waits between its first action and its last.

    ::

        rank 0  0F0 0F1 0F2 0F3 0F4 0I0 0W0 0I1 0W1 0I2 0W2 0I3 0W3 0I4 0W4  .   .
        rank 1   .  1F0 1F1 1F2 1I0 1F3 1I1 1F4 1I2 1W0 1I3 1W1 1I4 1W2 1W3 1W4  .
        rank 2   .   .  2F0 2I0 2F1 2I1 2F2 2I2 2F3 2I3 2F4 2I4 2W0 2W1 2W2 2W3 2W4

    Every rank keeps up to 2p-1 micro-batches, counted until their ``W``; what is idle is each rank's wait for its first
    input and, at the end, for the others.

    Qi et al. 2023, "Zero Bubble Pipeline Parallelism".
    """
    require_stages("zb-h2", 1, stages_per_rank)
    return Program.of(
        _halves(rank, num_microbatches, ahead=2 * (num_ranks - rank) - 1, delay=2 * rank) for rank in range(num_ranks)
    )


def require_stages(name: str, needed: int, stages_per_rank: int) -> None:
    """Refuse another number of stages a rank than a schedule is made for.

    Raises:
        ValueError: the numbers differ. A user's choice is judged, and refused by its key, in ``schedule``.
    """
    if stages_per_rank != needed:
        raise ValueError(f"{name} is made for {needed} stages a rank, not {stages_per_rank}")


def _one_stage(stage: int, num_microbatches: int) -> tuple[list[Action], list[Action]]:
    numbers = range(num_microbatches)
    return [Action(stage, Kind.FORWARD, n) for n in numbers], [Action(stage, Kind.BACKWARD, n) for n in numbers]


def _forwards_ahead(forwards: Sequence[Action], backwards: Sequence[Action], ahead: int) -> Iterator[Action]:
    """Yield ``ahead`` forwards, then a forward and a backward in turn, then the backwards that are left."""
    yield from forwards[:ahead]
    steady = forwards[ahead:]
    for forward, backward in zip(steady, backwards, strict=False):
        yield forward
        yield backward
    yield from backwards[len(steady) :]


def _halves(stage: int, num_microbatches: int, ahead: int, delay: int) -> Iterator[Action]:
    """Yield ``ahead`` forwards, then I, W and F in turn, each W ``delay`` turns after its I, then what is left."""
    for number in range(min(ahead, num_microbatches)):
        yield Action(stage, Kind.FORWARD, number)
    for number in range(num_microbatches):
        yield Action(stage, Kind.BACKWARD_INPUT, number)
        if number >= delay:
            yield Action(stage, Kind.BACKWARD_WEIGHT, number - delay)
        if number + ahead < num_microbatches:
            yield Action(stage, Kind.FORWARD, number + ahead)
    for number in range(max(0, num_microbatches - delay), num_microbatches):
        yield Action(stage, Kind.BACKWARD_WEIGHT, number)


def _rounds(num_microbatches: int, num_rounds: int) -> list[range]:
    """Cut the micro-batches into consecutive rounds as even as possible, the longer ones first."""
    size, longer = divmod(num_microbatches, num_rounds)
    starts = [number * size + min(number, longer) for number in range(num_rounds + 1)]
    return [range(*border) for border in pairwise(starts)]
