"""Programs: for each rank of the pipeline the list of what it does, in order. No torch."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from megalm.errors import UserError
from megalm.parallel.pipeline.action import RECEIVES, SENDS, Action, Kind

_OVERLAP = re.compile(r"\(([^)]*)\)OVERLAP_F_B")


@dataclass(frozen=True)
class Program:
    """What every rank of the pipeline does in one step. A stage lies on the rank whose list has its forwards.

    Args:
        ranks: each rank's actions, in the order in which it does them.
    """

    ranks: tuple[tuple[Action, ...], ...]

    @staticmethod
    def of(ranks: Iterable[Iterable[Action]]) -> "Program":
        """Make a program of any lists of actions."""
        return Program(tuple(tuple(actions) for actions in ranks))

    def actions(self) -> Iterator[tuple[int, Action]]:
        """Yield every action with its rank, rank by rank."""
        for rank, actions in enumerate(self.ranks):
            for action in actions:
                yield rank, action

    @cached_property
    def rank_of_stage(self) -> dict[int, int]:
        """The rank that holds each stage, in the order of the stages."""
        found: dict[int, int] = {}
        for rank, action in self.actions():
            if action.kind is Kind.FORWARD:
                found.setdefault(action.stage, rank)
        return dict(sorted(found.items()))

    @cached_property
    def num_stages(self) -> int:
        """How many spans the layers are cut into."""
        return max(self.rank_of_stage, default=-1) + 1

    @cached_property
    def num_microbatches(self) -> int:
        """How many micro-batches the step has."""
        return max((action.microbatch for _, action in self.actions() if action.microbatch is not None), default=-1) + 1

    @cached_property
    def words(self) -> frozenset[Action]:
        """All that is done somewhere."""
        return frozenset(action for _, action in self.actions())

    @cached_property
    def last_blocks(self) -> dict[int, int]:
        """The last block of each stage whose forwards are cut into blocks."""
        found: dict[int, int] = {}
        for stage, kind, _, block in self.words:
            if kind is Kind.FORWARD and block is not None:
                found[stage] = max(found.get(stage, 0), block)
        return found

    @cached_property
    def communicates(self) -> bool:
        """Whether sends and receives have been added."""
        return any(action.kind in SENDS or action.kind in RECEIVES for action in self.words)

    def stages_of(self, rank: int) -> list[int]:
        """Return the stages that a rank holds, in their order."""
        return [stage for stage, holder in self.rank_of_stage.items() if holder == rank]

    def is_remote(self, stage: int, other: int) -> bool:
        """Return whether two stages lie on different ranks, so that what flows between them is sent."""
        return self.rank_of_stage.get(stage) != self.rank_of_stage.get(other)


def to_csv(program: Program) -> str:
    """Return the program in torch's form: one line a rank, one word a cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([map(str, actions) for actions in program.ranks])
    return text.getvalue()


def from_csv(text: str) -> Program:
    """Read a program in torch's form; empty cells, which draw idle time there, mean nothing here.

    An overlapped pair, ``(0F0;1B2)OVERLAP_F_B``, is read as its parts, one after the other.

    Raises:
        UserError: a cell is no action, and its line and its place are named; or there is none at all.
    """
    ranks: list[list[Action]] = []
    for line, cells in enumerate(_rows(text), start=1):
        actions: list[Action] = []
        for place, cell in enumerate(cells, start=1):
            try:
                actions += [Action.parse(word) for word in _words(cell)]
            except UserError as error:
                raise UserError(f"line {line}, cell {place}: {error}") from error
        ranks.append(actions)
    while ranks and not ranks[-1]:
        ranks.pop()
    if not ranks:
        raise UserError("it holds no action; write one line for each pipeline rank, as 0F0,0F1,0B0,0B1.")
    return Program.of(ranks)


def _rows(text: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(text, newline=""))
    except csv.Error as error:
        raise UserError(
            f"it is no CSV ({error}); write one line for each pipeline rank, as 0F0,0F1,0B0,0B1."
        ) from error


def _words(cell: str) -> Sequence[str]:
    cell = cell.strip()
    overlap = _OVERLAP.fullmatch(cell)
    return [word for word in (overlap[1].split(";") if overlap else [cell]) if word.strip()]
