"""Programs of the tests: read from words, printed as words, and drawn at random."""

import os

from hypothesis import settings
from hypothesis import strategies as st

from megalm.parallel.pipeline.action import Action
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedule import BUILT_IN, MADE_FOR

FULL = os.environ.get("MEGALM_TEST_FULL") == "1"
patient = settings(deadline=None, max_examples=1000 if FULL else 60)


def read(*ranks: str) -> Program:
    """Read a program, one string of words a rank."""
    return Program.of([Action.parse(word) for word in words.split()] for words in ranks)


def printed(program: Program) -> list[str]:
    """Print a program, one string of words a rank."""
    return [" ".join(map(str, actions)) for actions in program.ranks]


def words(program: Program) -> list[list[str]]:
    """Return every rank's words."""
    return [[str(action) for action in actions] for actions in program.ranks]


def lowered(program: Program, blocks: int) -> Program:
    """Add reductions of that many blocks a stage, and communication."""
    return with_communication(with_reductions(program, [blocks] * program.num_stages))


@st.composite
def schedule_programs(draw: st.DrawFn, ranks: int = 16, microbatches: int = 64) -> Program:
    """Draw a built-in schedule and its numbers."""
    name = draw(st.sampled_from(sorted(BUILT_IN)))
    stages = MADE_FOR.get(name) or draw(st.integers(1, 4))
    return BUILT_IN[name](draw(st.integers(1, ranks)), draw(st.integers(1, microbatches)), stages)
