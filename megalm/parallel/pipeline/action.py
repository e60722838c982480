"""The vocabulary of a schedule: what one rank does next, in one word."""

import re
from dataclasses import dataclass
from enum import StrEnum

from megalm.errors import UserError


class Kind(StrEnum):
    """What an action does.

    ``F`` forward of a micro-batch, ``B`` its backward, ``R`` start the sum of a block's gradients over the data ranks.
    """

    FORWARD = "F"
    BACKWARD = "B"
    REDUCE = "R"


@dataclass(frozen=True)
class Action:
    """One entry of a program, printed as ``0F3`` (stage 0, forward, micro-batch 3).

    Args:
        stage: number of the span of layers.
        kind: what is done.
        microbatch: of which micro-batch; a reduction has none.
        block: only this block of the stage (``0B3/5``, ``0R/5``); ``None`` for all of them.
    """

    stage: int
    kind: Kind
    microbatch: int | None = None
    block: int | None = None

    def __str__(self) -> str:
        """Print the word."""
        microbatch = "" if self.microbatch is None else self.microbatch
        return f"{self.stage}{self.kind.value}{microbatch}" + ("" if self.block is None else f"/{self.block}")

    @staticmethod
    def parse(word: str) -> "Action":
        """Read the word back.

        Raises:
            UserError: it is not a word of the vocabulary.
        """
        found = re.fullmatch(r"(\d+)([FBR])(\d+)?(?:/(\d+))?", word)
        if found is None or (found[2] == "R") != (found[3] is None):
            raise UserError(f"{word!r} is no action; write one like 2F0, 2B0 or 2R.")
        stage, kind, microbatch, block = found.groups()
        return Action(
            int(stage),
            Kind(kind),
            None if microbatch is None else int(microbatch),
            None if block is None else int(block),
        )
