"""The programs that a run executes, lowered: made once for each number of micro-batches."""

from collections.abc import Collection, Sequence

from megalm.parallel.pipeline.config import PipelineConfig
from megalm.parallel.pipeline.gathers import with_gathers
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedule import program_of, stages_per_rank
from megalm.parallel.pipeline.schedules import forwards


def rank_of_stage(config: PipelineConfig, num_ranks: int, num_microbatches: int) -> list[int]:
    """Return the rank of the pipeline that holds each stage.

    Args:
        config: the ``pipeline`` section.
        num_ranks: ``layout.pp``.
        num_microbatches: of one rank's step.

    Raises:
        UserError: the schedule does not fit these numbers.
    """
    return list(_compute(config, num_ranks, num_microbatches).rank_of_stage.values())


class Programs:
    """Makes, and keeps, the program of each number of micro-batches.

    Args:
        config: the ``pipeline`` section.
        holders: the rank that holds each stage.
        num_ranks: of the pipeline.
        num_blocks: of each stage.
        at_end: the (stage, block) whose gradients are only complete at the end of their rank's list.
        zero_stage: what the data ranks share: 0 to 3.
        prefetch: at stage 3, how many blocks ahead are gathered.
    """

    def __init__(
        self,
        config: PipelineConfig,
        holders: Sequence[int],
        num_ranks: int,
        num_blocks: Sequence[int],
        at_end: Collection[tuple[int, int]] = (),
        *,
        zero_stage: int = 0,
        prefetch: int = 1,
    ) -> None:
        """See the class."""
        self._config, self._holders, self._num_ranks = config, holders, num_ranks
        self._zero_stage, self._prefetch = zero_stage, prefetch
        self._num_blocks, self._at_end = num_blocks, at_end
        self._training: dict[int, Program] = {}

    def training(self, num_microbatches: int) -> Program:
        """Return the program of a training step."""
        if num_microbatches not in self._training:
            compute = _compute(self._config, self._num_ranks, num_microbatches)
            often = self._zero_stage >= 2
            reduced = with_reductions(compute, self._num_blocks, self._at_end, of_each_microbatch=often)
            self._training[num_microbatches] = with_communication(self._gathered(reduced))
        return self._training[num_microbatches]

    def evaluation(self, num_microbatches: int) -> Program:
        """Return the program of an evaluation."""
        return with_communication(self._gathered(forwards(self._holders, self._num_ranks, num_microbatches)))

    def _gathered(self, program: Program) -> Program:
        if self._zero_stage < 3:
            return program
        return with_gathers(program, self._num_blocks, self._prefetch)


def _compute(config: PipelineConfig, num_ranks: int, num_microbatches: int) -> Program:
    per_rank = stages_per_rank(config.schedule, config.stages_per_rank)
    return program_of(config.schedule, num_ranks, num_microbatches, per_rank)
