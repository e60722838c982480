"""A pipeline schedule of your own: GPipe in waves, which keeps only one wave of micro-batches in flight.

Name it in the run file, and run the command where this file can be imported::

    layout:   {pp: 2}
    pipeline: {schedule: "examples.own_schedule:waves"}

A schedule says what each rank computes, and in which order. megalm checks it before anything runs, adds the sends, the
receives and the gradient sums, and gives the same result as under any other schedule.
"""

from megalm.parallel.pipeline.action import Action, Kind
from megalm.parallel.pipeline.program import Program


def waves(num_ranks: int, num_microbatches: int, stages_per_rank: int) -> Program:
    """Return waves of as many micro-batches as there are ranks: all forwards of a wave, then all its backwards.

    ::

        rank 0  0F0 0F1  .   .  0B0 0B1 0F2 0F3  .   .  0B2 0B3
        rank 1   .  1F0 1F1 1B0 1B1  .   .  1F2 1F3 1B2 1B3  .

    Args:
        num_ranks: from ``layout.pp``.
        num_microbatches: of one step.
        stages_per_rank: from ``pipeline.stages_per_rank``; rank r holds the stages r, r + num_ranks, ...
    """
    ranks = []
    for rank in range(num_ranks):
        stages = [rank + num_ranks * turn for turn in range(stages_per_rank)]
        actions: list[Action] = []
        for first in range(0, num_microbatches, num_ranks):
            wave = range(first, min(first + num_ranks, num_microbatches))
            actions += [Action(stage, Kind.FORWARD, number) for stage in stages for number in wave]
            actions += [Action(stage, Kind.BACKWARD, number) for stage in reversed(stages) for number in wave]
        ranks.append(actions)
    return Program.of(ranks)
