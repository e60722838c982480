"""The schedules in V form: rank r holds stages r and 2p-1-r, so that the first rank also makes the loss. No torch.

A micro-batch runs down the ranks over the first chunk of their stages and back up over the second; its gradient goes
the other way round. A rank's phases are written as steps such as ``F0`` (forward, chunk 0), each of which takes the
next micro-batch. With fewer micro-batches than the phases are made for, the program is that of as many as they are made
for, without those that do not exist. In the tables every action takes one step and a dot is an idle one.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from megalm.parallel.pipeline.action import Action, Kind
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedules import require_stages


def zb_v(num_ranks: int, num_microbatches: int, stages_per_rank: int = 2) -> Program:
    """Return ZB-V: hardly any idle time within the memory of 1F1B, where each stage is half as long.

    ::

        rank 0  0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0I0 0W0 3F2 3I2 3W2 0I1 0W1 0I2 0W2  .
        rank 1   .  1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1I1 2I2 1I2 1W1 2W2 1W2

    If ``F``, ``I`` and ``W`` take equal time and there are 2p-1 micro-batches or more, (p-1)/(6m+p-1) of it is idle: a
    rank waits only for its first input and, at the end, for the others. Counted until their ``W``, it keeps at most 2p
    micro-batches, each of half a 1F1B stage.

    Qi et al. 2024, "Pipeline Parallelism with Controllable Memory".
    """
    require_stages("zb-v", 2, stages_per_rank)
    made_for = max(num_microbatches, 2 * num_ranks - 1)
    return _v_program(num_microbatches, [_zb_v_steps(num_ranks, rank, made_for) for rank in range(num_ranks)])


def dualpipe_v(num_ranks: int, num_microbatches: int, stages_per_rank: int = 2) -> Program:
    """Return DualPipe cut in half: whole backwards beside forwards of the other chunk, halves only at the ends.

    ::

        rank 0  0F0 0F1 0F2 3F0 3I0 3W0 3F1 0F3 3B1 3F2 0B0 3B2 3F3 0B1 3B3 0I2 0W2 0I3 0W3
        rank 1   .  1F0 2F0 1F1 2F1 1F2 2B0 2F2 1B0 1F3 2B1 2F3 1B1 2B2 1B2 2I3 1I3 2W3 1W3

    A forward and the backward after it are of different micro-batches and need nothing of one another, which lets an
    engine hide the communication of one behind the computation of the other.

    DeepSeek-AI 2024, "DeepSeek-V3 Technical Report"; Sea AI Lab 2025, "DualPipe Could Be Better Without the Dual",
    whose cut in half needs no second copy of the parameters.
    """
    require_stages("dualpipe-v", 2, stages_per_rank)
    made_for = max(num_microbatches, 2 * num_ranks)
    return _v_program(num_microbatches, [_dualpipe_v_steps(num_ranks, rank, made_for) for rank in range(num_ranks)])


def _zb_v_steps(num_ranks: int, rank: int, num_microbatches: int) -> list[str]:
    below = num_ranks - 1 - rank
    return [
        *["F0"] * (2 * below + 1),
        *["F1", "F0"] * rank,
        *["F1", "I1", "W1"] * (below + 1),
        *["F0", "I0", "W0", "F1", "I1", "W1"] * (num_microbatches - num_ranks - below),
        *["I0", "W0", "F1", "I1", "W1"] * below,
        *["I0", "I1"] * rank,
        *["I0", "W0"] * (below + 1),
        *["W1"] * rank,
        *["W0"] * rank,
    ]


def _dualpipe_v_steps(num_ranks: int, rank: int, num_microbatches: int) -> list[str]:
    below = num_ranks - 1 - rank
    last_pairs = ["1", "0"] * (rank + 1)
    whole, halved = last_pairs[: rank + 1], last_pairs[rank + 1 :]
    weights = ["W" + chunk for chunk in halved + ["0"] * below]
    return [
        *["F0"] * (2 * below),
        *["F0", "F1"] * (rank + 1),
        *["I1", "W1", "F1"] * below,
        *["F0", "B1", "F1", "B0"] * (num_microbatches - num_ranks - below),
        *["B1", "F1", "B0"] * below,
        *["B" + chunk for chunk in whole],
        *["I" + chunk for chunk in halved],
        *[step for weight in weights[:below] for step in (weight, "I0")],
        *weights[below:],
    ]


def _v_program(num_microbatches: int, steps: Sequence[Sequence[str]]) -> Program:
    last = 2 * len(steps) - 1
    return Program.of(_numbered(steps[rank], (rank, last - rank), num_microbatches) for rank in range(len(steps)))


def _numbered(steps: Sequence[str], stages: tuple[int, int], num_microbatches: int) -> Iterator[Action]:
    """Give each step the next micro-batch of its kind and chunk, and leave out those that do not exist."""
    seen: Counter[str] = Counter()
    for step in steps:
        kind, chunk = Kind(step[0]), step[1]
        number = seen["I" + chunk if kind is Kind.BACKWARD else step]
        seen.update(["I" + chunk, "W" + chunk] if kind is Kind.BACKWARD else [step])
        if number < num_microbatches:
            yield Action(stages[int(chunk)], kind, number)
