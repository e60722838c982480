"""What is measured, and what is claimed of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from megalm.parallel.pipeline.clock import StageCost, time_program
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedule import program_of

WITHIN = 0.03
"""How far a measured bubble may be from the clock's."""
BETTER, WORSE, NUM_RANKS, NUM_MICROBATCHES = "zb-h1", "1f1b", 4, 8
"""The bubble of the first schedule is at most half of that of the second, on so many ranks and micro-batches."""


@dataclass(frozen=True)
class Case:
    """One pipeline.

    Args:
        schedule: its name in the run file.
        num_ranks: of the pipeline.
        num_microbatches: of a step.
        stages_per_rank: of each rank.
    """

    schedule: str
    num_ranks: int
    num_microbatches: int = NUM_MICROBATCHES
    stages_per_rank: int = 1

    def program(self) -> Program:
        """Return what the ranks execute: one block a stage."""
        compute = program_of(self.schedule, self.num_ranks, self.num_microbatches, self.stages_per_rank)
        return with_communication(with_reductions(compute, [1] * compute.num_stages))

    def predicted(self) -> Fraction:
        """Return the bubble on the clock, with F = I = W."""
        program = self.program()
        return Fraction(time_program(program, [StageCost(1, 1, 1)] * program.num_stages).bubble)


CASES = tuple(
    Case(schedule, num_ranks, stages_per_rank=2 if schedule == "interleaved" else 1)
    for num_ranks in (2, NUM_RANKS)
    for schedule in ("gpipe", WORSE, "interleaved", BETTER)
)


@dataclass(frozen=True)
class Measured:
    """A case with the bubbles of its repeats' median steps, and their median."""

    case: Case
    all: Sequence[float]
    bubble: float


@dataclass(frozen=True)
class Verdict:
    """A claim, the number that decides it, and whether it holds."""

    claim: str
    measured: float
    holds: bool


def verdicts(measured: Sequence[Measured]) -> list[Verdict]:
    """Judge every claim."""
    found = []
    for each in measured:
        difference = abs(each.bubble - float(each.case.predicted()))
        claim = f"{each.case.schedule} at p={each.case.num_ranks}: within {WITHIN} of the clock"
        found.append(Verdict(claim, difference, difference <= WITHIN))
    bubbles = {
        each.case.schedule: each.bubble
        for each in measured
        if (each.case.num_ranks, each.case.num_microbatches) == (NUM_RANKS, NUM_MICROBATCHES)
    }
    ratio = bubbles[BETTER] / bubbles[WORSE]
    claim = f"{BETTER} at most half of {WORSE} at p={NUM_RANKS}, m={NUM_MICROBATCHES}"
    return [*found, Verdict(claim, ratio, ratio <= 1 / 2)]
