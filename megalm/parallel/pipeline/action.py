"""The vocabulary of a schedule: what one rank does next, in one word. No torch."""

import re
from enum import StrEnum
from typing import NamedTuple

from megalm.errors import UserError


class Kind(StrEnum):
    """What an action does; the words are those of torch.distributed.pipelining.

    A backward is whole (``B``), or made in two halves: ``I`` makes the gradient of the stage's input, which the stage
    before waits for, and ``W`` later those of its weights, for which nobody waits (Qi et al. 2023, "Zero Bubble
    Pipeline Parallelism").
    """

    FORWARD = "F"
    BACKWARD = "B"
    BACKWARD_INPUT = "I"
    BACKWARD_WEIGHT = "W"
    SEND_FORWARD = "SEND_F"
    RECEIVE_FORWARD = "RECV_F"
    SEND_BACKWARD = "SEND_B"
    RECEIVE_BACKWARD = "RECV_B"
    GATHER = "UNSHARD"
    RELEASE = "RESHARD"
    REDUCE = "REDUCE_GRAD"

    # Enum's own hash is a Python function; actions are hashed by the hundred thousand.
    __hash__ = str.__hash__


COMPUTE = frozenset({Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT})
"""What keeps a rank busy, and all that a schedule decides; lowering adds the rest."""
BACKWARDS = COMPUTE - {Kind.FORWARD}
"""What goes from the last block to the first."""
READS_PARAMETERS = COMPUTE - {Kind.BACKWARD_WEIGHT}
"""What needs the values of a block's parameters."""
SENDS = frozenset({Kind.SEND_FORWARD, Kind.SEND_BACKWARD})
"""What puts a value on its way to another rank."""
RECEIVES = frozenset({Kind.RECEIVE_FORWARD, Kind.RECEIVE_BACKWARD})
"""What takes it there."""
OF_A_STAGE = frozenset({Kind.GATHER, Kind.RELEASE, Kind.REDUCE})
"""What is done for a stage's parameters: of no micro-batch, but a reduction may be of one."""
_NUMBER = r"(\d{1,9})"
_WORD = re.compile(
    rf"{_NUMBER}({'|'.join(sorted(Kind, key=len, reverse=True))}){_NUMBER}?(?:/{_NUMBER})?", flags=re.ASCII
)


class Action(NamedTuple):
    """One entry of a program, printed as ``2F3`` (stage 2, forward, micro-batch 3).

    Args:
        stage: number of the span of layers.
        kind: what is done.
        microbatch: of which micro-batch; gathers and releases have none, nor have reductions of all of them.
        block: only this block of the stage (``2B3/5``, ``2REDUCE_GRAD/5``); ``None`` for all of them.
    """

    stage: int
    kind: Kind
    microbatch: int | None = None
    block: int | None = None

    def __str__(self) -> str:
        """Print the word."""
        microbatch = "" if self.microbatch is None else self.microbatch
        return f"{self.stage}{self.kind.value}{microbatch}" + ("" if self.block is None else f"/{self.block}")

    def __repr__(self) -> str:
        """Print the word: programs are long, and are read in failures."""
        return str(self)

    @staticmethod
    def parse(word: str) -> "Action":
        """Read the word back.

        Raises:
            UserError: it is not a word of the vocabulary.
        """
        found = _WORD.fullmatch(word.strip())
        if found is None or not is_counted_right(Kind(found[2]), found[3]):
            raise UserError(f"{word!r} is no action; write one like 2F0, 2B0, 2SEND_F0 or 2REDUCE_GRAD.")
        stage, kind, microbatch, block = found.groups()
        return Action(
            int(stage),
            Kind(kind),
            None if microbatch is None else int(microbatch),
            None if block is None else int(block),
        )


def is_counted_right(kind: Kind, microbatch: object) -> bool:
    """Whether an action of this kind may have this micro-batch, or none."""
    return kind is Kind.REDUCE or (kind in OF_A_STAGE) == (microbatch is None)
