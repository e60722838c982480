"""A run of many ranks without processes: who goes on when, until nobody can; and what was planted that stops them.

It knows nothing of positions' files or of the diagnosis: a collective ends when each of its ranks has come to it.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from megalm.layout import Layout
from megalm.watch.position import Call, Channel, Lane, Position

KINDS = ("all_reduce", "all_gather", "reduce_scatter")


@dataclass
class Rank:
    """One rank: what it is to do, and how far it is."""

    todo: list[Call]
    done: int = 0
    begun: dict[Channel, Call] = field(default_factory=dict)
    counts: dict[Channel, int] = field(default_factory=lambda: defaultdict(int))
    waits: Call | None = None


class Run:
    """A run whose ranks go through random collectives over the axes of a layout, in one order."""

    def __init__(self, layout: Layout, length: int, chance: random.Random) -> None:
        self.layout, self.chance = layout, chance
        self.ranks = [Rank([]) for _ in range(layout.world_size)]
        for _ in range(length):
            self._plan_one()

    def _plan_one(self) -> None:
        """All groups of one axis do the same, as in training; or one rank sends to its neighbour in the pipeline."""
        axes = self.chance.choice([("tp",), ("dp",), ("pp",), ("pp", "tp"), ("pp", "dp", "cp", "tp")])
        kind, payload = self.chance.choice(KINDS), 8 * self.chance.randint(1, 10**6)
        messages = axes == ("pp",) and self.chance.random() < 0.7
        for rank in range(self.layout.world_size):
            group = self.layout.ranks_along(axes, rank)
            if rank != group[0] or len(group) == 1:
                continue
            pairs = [*pairwise(group)] if messages else [group]
            for members in pairs:
                channel = Channel(members, messages=messages)
                call = Call(channel, 0, "_".join(axes), "message" if messages else kind, payload)
                for member in members:
                    self.ranks[member].todo.append(call)

    def go(self, until: dict[int, int]) -> None:
        """Let ranks go on, in any order, until none can; ``until`` says after how many calls a rank stops."""
        moved = True
        while moved:
            moved = False
            for rank in self.chance.sample(range(len(self.ranks)), len(self.ranks)):
                moved = self._move(rank, until.get(rank)) or moved

    def _move(self, number: int, stop_at: int | None) -> bool:
        rank = self.ranks[number]
        if rank.waits is not None:
            if not self._complete(rank.waits):
                return False
            rank.waits = None
            rank.done += 1
            return True
        if rank.done == len(rank.todo) or rank.done == stop_at:
            return False
        planned = rank.todo[rank.done]
        rank.counts[planned.channel] += 1
        rank.waits = rank.begun[planned.channel] = planned._replace(number=rank.counts[planned.channel])
        return True

    def _complete(self, call: Call) -> bool:
        """Whether all members have come, and have come to the same."""
        for member in call.channel.ranks:
            other = self.ranks[member]
            if other.counts[call.channel] < call.number:
                return False
            newest = other.begun[call.channel]
            if newest.number == call.number and newest[2:] != call[2:]:
                return False
        return True

    def positions(self) -> dict[int, Position]:
        """Return where all ranks are."""
        return {
            number: Position(
                number,
                len(self.ranks),
                "h1",
                1000 + number,
                self.layout.coordinates(number)._asdict(),
                step=1,
                lanes=[Lane("0F0", 0.0, rank.waits)],
                begun=dict(rank.begun),
            )
            for number, rank in enumerate(self.ranks)
        }

    def stuck(self) -> Sequence[int]:
        """Return the ranks that are not through."""
        return [number for number, rank in enumerate(self.ranks) if rank.done < len(rank.todo)]
