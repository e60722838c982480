"""The programs that a run executes, lowered: made once for each number of micro-batches."""

from collections.abc import Collection, Sequence

from megalm.parallel.pipeline.config import PipelineConfig
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedule import program_of, stages_per_rank
from megalm.parallel.pipeline.schedules import forwards


class Programs:
    """Makes, and keeps, the program of each number of micro-batches.

    Args:
        config: the ``pipeline`` section.
        num_ranks: ``layout.pp``.
        num_microbatches: of one rank's step, for asking where the stages lie.

    Attributes:
        rank_of_stage: the rank of the pipeline that holds each stage.
    """

    def __init__(self, config: PipelineConfig, num_ranks: int, num_microbatches: int) -> None:
        """See the class."""
        self._schedule = config.schedule
        self._num_ranks = num_ranks
        self._stages_per_rank = stages_per_rank(config.schedule, config.stages_per_rank)
        self._training: dict[int, Program] = {}
        self._num_blocks: Sequence[int] = ()
        self._at_end: Collection[tuple[int, int]] = ()
        first = program_of(self._schedule, num_ranks, num_microbatches, self._stages_per_rank)
        self.rank_of_stage = list(first.rank_of_stage.values())

    def place(self, num_blocks: Sequence[int], at_end: Collection[tuple[int, int]]) -> None:
        """Say what the stages are made of.

        Args:
            num_blocks: of each stage.
            at_end: the (stage, block) whose gradients are only complete at the end of their rank's list.
        """
        self._num_blocks, self._at_end = num_blocks, at_end

    def training(self, num_microbatches: int) -> Program:
        """Return the program of a training step."""
        if num_microbatches not in self._training:
            schedule = program_of(self._schedule, self._num_ranks, num_microbatches, self._stages_per_rank)
            lowered = with_reductions(schedule, self._num_blocks, self._at_end)
            self._training[num_microbatches] = with_communication(lowered)
        return self._training[num_microbatches]

    def evaluation(self, num_microbatches: int) -> Program:
        """Return the program of an evaluation."""
        return with_communication(forwards(self.rank_of_stage, self._num_ranks, num_microbatches))
