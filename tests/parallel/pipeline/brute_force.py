"""A second opinion on programs, by values instead of rules: ranks hold values, and links carry them in order.

It shares nothing with the package but the words, whose text it reads.
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence

Word = tuple[int, str, int, int | None]
Value = tuple[str, int, int, int | None]
SPLIT = re.compile(r"(\d+)([A-Z_]+)(\d+)?(?:/(\d+))?")
CUTTABLE = ("F", "B", "I", "W", "REDUCE_GRAD")
FIRST = (None, 0)
"""The block after which a backward is whole."""


def read(word: str) -> Word:
    """Take a word apart; what has no micro-batch gets -1."""
    found = SPLIT.fullmatch(word)
    assert found is not None, word
    stage, kind, microbatch, block = found.groups()
    return int(stage), kind, int(microbatch or -1), None if block is None else int(block)


class Machine:
    """Ranks that do their lists, every action in one step, as soon as the values are there that it uses."""

    def __init__(self, ranks: Iterable[Iterable[str]]) -> None:
        self.lists = [[read(word) for word in words] for words in ranks]
        self.words = [word for words in self.lists for word in words]
        self.last_stage = max((word[0] for word in self.words), default=-1)
        self.numbers = range(max((word[2] for word in self.words), default=-1) + 1)
        self.home = {word[0]: rank for rank, words in enumerate(self.lists) for word in words if word[1] == "F"}
        self.top: Counter[tuple[int, str, int]] = Counter()
        for stage, kind, number, block in self.words:
            self.top[stage, kind, number] = max(self.top[stage, kind, number], block or 0)
        self.values: list[set[Value]] = [set() for _ in self.lists]
        self.seen = self.values
        if not any(len(word[1]) > 1 and word[1][:4] in ("SEND", "RECV") for word in self.words):
            everywhere: set[Value] = set()
            self.seen = [everywhere for _ in self.lists]
        self.links: defaultdict[tuple[int, int], deque[Value]] = defaultdict(deque)

    def run(self) -> list[list[Word | None]]:
        """Return what each rank did in each step, until nobody could do more; ``None`` is a wait."""
        at = [0] * len(self.lists)
        steps: list[list[Word | None]] = [[] for _ in self.lists]
        while True:
            able = {
                rank: words[at[rank]]
                for rank, words in enumerate(self.lists)
                if at[rank] < len(words) and self.can(rank, *words[at[rank]])
            }
            if not able:
                return steps
            for rank in range(len(self.lists)):
                steps[rank].append(able.get(rank))
            for rank, word in able.items():
                self.do(rank, *word)
                at[rank] += 1

    def can(self, rank: int, stage: int, kind: str, number: int, block: int | None) -> bool:
        """Tell whether everything that the action uses is there."""
        own, seen = self.values[rank], self.seen[rank]
        if kind in ("B", "I", "W") and block is not None and block < self.top[stage, kind, number]:
            return (kind, stage, number, block + 1) in own
        if kind == "F" and block:
            return (kind, stage, number, block - 1) in own
        match kind:
            case "F":
                return stage == 0 or ("output", stage - 1, number, None) in seen
            case "B" | "I":
                reached = stage == self.last_stage or ("gradient", stage + 1, number, None) in seen
                return reached and ("output", stage, number, None) in own
            case "W":
                return any(("I", stage, number, first) in own for first in FIRST)
            case "SEND_F" | "SEND_B":
                return self.message(stage, kind, number) in own and self.home.get(self.other(stage, kind), rank) != rank
            case "RECV_F" | "RECV_B":
                link = self.links[self.home.get(self.other(stage, kind), rank), rank]
                return bool(link) and link[0] == self.message(stage, kind, number)
            case "REDUCE_GRAD":
                return all(
                    any((kind, stage, n, part) in own for kind in "BW" for part in (None, block or 0))
                    for n in self.numbers
                )
        return True

    def do(self, rank: int, stage: int, kind: str, number: int, block: int | None) -> None:
        """Put what the action makes where it belongs."""
        made = self.message(stage, kind, number)
        if kind.startswith("SEND"):
            self.links[rank, self.home[self.other(stage, kind)]].append(made)
            return
        if kind.startswith("RECV"):
            self.links[self.home[self.other(stage, kind)], rank].popleft()
        self.values[rank].add((kind, stage, number, block))
        last = kind == "F" and (block or 0) == self.top[stage, kind, number]
        if kind in ("RECV_F", "RECV_B") or last or (kind in ("B", "I") and block in FIRST):
            self.values[rank].add(made)
            self.seen[rank].add(made)

    @staticmethod
    def other(stage: int, kind: str) -> int:
        """Return the stage at the other end of a message."""
        return stage + (1 if kind in ("SEND_F", "RECV_B") else -1)

    def message(self, stage: int, kind: str, number: int) -> Value:
        """Return the value that a forward, a backward or a message is about; it belongs to the stage that made it."""
        maker = self.other(stage, kind) if kind.startswith("RECV") else stage
        return ("output" if kind[-1] == "F" else "gradient", maker, number, None)


def runs_to_its_end(ranks: Sequence[Sequence[str]]) -> bool:
    """Tell whether every rank can do its whole list."""
    machine = Machine(ranks)
    return sum(word is not None for step in machine.run() for word in step) == len(machine.words)


def is_one_training_step(ranks: Sequence[Sequence[str]]) -> bool:
    """Tell whether everything is there once: every stage on one rank, both ways, and reduced everywhere or nowhere."""
    machine = Machine(ranks)
    homes = {(word[0], rank) for rank, words in enumerate(machine.lists) for word in words}
    stages = range(machine.last_stage + 1)
    if len(homes) != len(stages) or len(set(machine.words)) != len(machine.words):
        return False
    blocks: defaultdict[tuple[int, str, int], set[int | None]] = defaultdict(set)
    for stage, kind, number, block in machine.words:
        blocks[stage, kind, number].add(block)
    cut = {key: found for key, found in blocks.items() if found != {None}}
    sizes = {stage: {len(found) for key, found in cut.items() if key[0] == stage} for stage in stages}
    return (
        all(
            found == set(range(len(found))) and key[1] in ("F", "B", "I", "W", "REDUCE_GRAD")
            for key, found in cut.items()
        )
        and all(len(found) <= 1 for found in sizes.values())
        and len({(stage, "REDUCE_GRAD", -1) in blocks for stage in stages}) <= 1
        and all(
            {kind for kind in "FBIW" if (stage, kind, number) in blocks} in ({"F", "B"}, {"F", "I", "W"})
            for stage in stages
            for number in machine.numbers
        )
    )


def table(ranks: Sequence[Sequence[str]]) -> str:
    """Draw what every rank does in each step, a dot where it waits; the form of the docstrings."""
    steps = Machine(ranks).run()
    return "\n".join(
        f"rank {rank}  "
        + " ".join(" . " if word is None else f"{word[0]}{word[1]}{word[2]}" for word in of_rank).rstrip()
        for rank, of_rank in enumerate(steps)
    )
