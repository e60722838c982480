"""All ranks say where they are and what they have; rank 0 judges for all, before any of them talks to another."""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from megalm.errors import SaidByAnother, UserError
from megalm.launcher.placement import Placement

JUDGEMENT = "judgement"


class Present(NamedTuple):
    """What a rank says.

    Args:
        host: its machine.
        visible: how many GPUs it sees.
        gpu: what tells the one that it would compute on from all others; empty without one.
    """

    host: str
    visible: int
    gpu: str


class Store(Protocol):
    """Where the ranks meet: a value of each name, waited for until it is there."""

    def set(self, key: str, value: str) -> None:
        """Give a value."""

    def get(self, key: str) -> bytes:
        """Return a value."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Return several."""


def roll_call(
    store: Store | None, placement: Placement, present: Present, judge: Callable[[Sequence[Present]], Sequence[str]]
) -> list[str]:
    """Return what rank 0 makes of all ranks.

    Args:
        store: where they meet; ``None`` for a rank that is alone.
        placement: which rank this is.
        present: what it says.
        judge: gets what each rank says, in the order of the ranks, and returns words for all of them.

    Raises:
        UserError: what ``judge`` raised; rank 0 tells it.
    """
    if store is None:
        return list(judge([present]))
    store.set(f"present/{placement.rank}", json.dumps(present))
    if placement.rank:
        answer = json.loads(store.get(JUDGEMENT))
        if "refused" in answer:
            raise SaidByAnother(answer["refused"])
        return list(answer["words"])
    said = store.multi_get([f"present/{rank}" for rank in range(placement.world_size)])
    try:
        words = list(judge([Present(*json.loads(text)) for text in said]))
    except UserError as error:
        store.set(JUDGEMENT, json.dumps({"refused": str(error)}))
        raise
    store.set(JUDGEMENT, json.dumps({"words": words}))
    return words
