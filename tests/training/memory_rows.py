"""Rows of a ``memory.json`` made by hand."""

from typing import Any

from megalm.plan.rank_memory import HOST, KEPT, PASSING

MIB = 2**20


def row(rank: int, **changed: Any) -> dict[str, Any]:
    """Return a rank that holds 1, 2, 3, ... MiB of its quantities, as planned, but for what is ``changed``.

    Nothing of it is on the host.
    """
    sizes: dict[str, int | None] = {name: (number + 1) * MIB for number, name in enumerate((*KEPT, *PASSING))}
    sizes.update(dict.fromkeys(HOST, 0))
    made = {
        "rank": rank,
        "coordinates": {"pp": 0, "dp": rank, "cp": 0, "tp": 0},
        "planned": {**sizes, **changed.pop("planned", {})},
        "measured": {**sizes, **changed.pop("measured", {})},
        "unknown": {},
        "padding": 0,
        "peak_resident": 512 * MIB,
        "peak_device": None,
    }
    return {**made, **changed}
