"""What a run's pipeline will do, drawn before it runs: stages, order, idle time, micro-batches in flight. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from megalm.models.counts import BlockFlops
from megalm.parallel.pipeline.clock import StageCost, Timetable, time_program
from megalm.parallel.pipeline.draw import draw_text
from megalm.parallel.pipeline.schedule import program_of, stages_per_rank
from megalm.plan.model_costs import model_costs
from megalm.plan.stages import cut_into_stages
from megalm.run_config import RunConfig


@dataclass(frozen=True)
class ScheduleView:
    """A run's pipeline on paper.

    Args:
        title: one line.
        stages: one line a stage: its rank, its blocks, its share of the model's work.
        timetable: in units of a third of the mean stage's forward and backward; ``peak`` counts micro-batches, from the
            forward until the gradients of the weights.
    """

    title: str
    stages: Sequence[str]
    timetable: Timetable

    def text(self, width: int | None) -> str:
        """Return the view for a terminal of so many columns; ``None`` for as many as all words need."""
        peaks = " ".join(str(peak) for peak in self.timetable.peak)
        return "\n".join(
            [
                self.title,
                *self.stages,
                "",
                draw_text(self.timetable, width),
                "",
                f"idle: {float(self.timetable.bubble):.1%} of all ranks' time",
                f"micro-batches in flight at most, rank by rank: {peaks}",
            ]
        )


def schedule_view(config: RunConfig) -> ScheduleView:
    """Time the schedule of a run with what its stages compute in closed form; sending takes no time.

    The stages of a model of the user's own, whose blocks are not known on paper, count alike.

    Raises:
        UserError: the schedule does not fit the run.
    """
    num_ranks, num_microbatches = config.layout.pp, config.num_microbatches
    per_rank = stages_per_rank(config.pipeline.schedule, config.pipeline.stages_per_rank)
    program = program_of(config.pipeline.schedule, num_ranks, num_microbatches, per_rank)
    stages, names = _stages(config, program.num_stages)
    whole = sum(stage.whole for stage in stages)
    unit = whole / len(stages) / 3
    costs = [
        StageCost(stage.forward / unit, stage.backward_input / unit, stage.backward_weight / unit) for stage in stages
    ]
    lines = [
        f"stage {number} on rank {program.rank_of_stage[number]}: {name}, {stage.whole / whole:.1%} of the work"
        for number, (name, stage) in enumerate(zip(names, stages, strict=True))
    ]
    sizes = f"{num_ranks} ranks, {program.num_stages} stages, {num_microbatches} micro-batches"
    title = f"{config.pipeline.schedule}: {sizes}"
    return ScheduleView(title, lines, time_program(program, costs))


def _stages(config: RunConfig, num_stages: int) -> tuple[list[BlockFlops], list[str]]:
    """Return what each stage costs, and what it holds."""
    known = model_costs(config)
    if known is None:
        return [BlockFlops(1, 1, 1)] * num_stages, ["its share of the blocks"] * num_stages
    spans = cut_into_stages(config, len(known.blocks), num_stages)
    return (
        [_sum([known.blocks[number] for number in span]) for span in spans],
        [", ".join(_shortened([known.names[number] for number in span])) for span in spans],
    )


def _sum(blocks: Sequence[BlockFlops]) -> BlockFlops:
    return BlockFlops(
        sum(block.forward for block in blocks),
        sum(block.backward_input for block in blocks),
        sum(block.backward_weight for block in blocks),
    )


def _shortened(names: Sequence[str]) -> list[str]:
    """Return the names of blocks, layers of one kind that follow one another as one: ``encoder layers 2 to 5``."""
    found = []
    for kind, group in groupby(names, lambda name: name.rpartition("layer ")[:2]):
        together = list(group)
        if not kind[1] or len(together) == 1:
            found.extend(together)
            continue
        first, last = (name.rpartition(" ")[2] for name in (together[0], together[-1]))
        found.append(f"{kind[0]}layers {first} to {last}")
    return found
