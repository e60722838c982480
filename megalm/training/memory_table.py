"""The memory of the ranks of a run in words: a table for the log, and a sentence where a plan was wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from megalm.plan.rank_memory import HOST, KEPT, PASSING
from megalm.training.report_scale import size_text

Row = Mapping[str, Any]
"""One rank of ``memory.json``: ``rank``, its ``coordinates``, ``planned`` and ``measured`` bytes by quantity (null
where they are not known), ``unknown`` (why a plan is not, by quantity), ``padding`` (of planned bytes),
``peak_resident`` and ``peak_device`` (null without a GPU)."""

MAX_RANKS = 8
"""So many ranks are shown one by one; of more only those that hold least and most."""
TOLERANCES = {"activations": 0.01, "host_activations": 0.01}
"""How far a plan may be off, as a share; that of everything else is exact."""
NAMES = {
    "gathered": "gathered parameters",
    "under_way": "gradients under way",
    "host_optimizer": "optimizer on the host",
    "host_activations": "activations on the host",
}
"""Of quantities whose key is no name."""


def name_of(quantity: str) -> str:
    """Return a quantity's name for a person."""
    return NAMES.get(quantity, quantity)


def total(sizes: Mapping[str, int | None]) -> int:
    """Return the bytes of all quantities that are known."""
    return sum(size or 0 for size in sizes.values())


def measured_total(row: Row) -> int:
    """Return the bytes that a rank was seen to hold, in all."""
    return total(row["measured"])


def shown(rows: Sequence[Row]) -> list[Row]:
    """Return the ranks that a person is shown."""
    if len(rows) <= MAX_RANKS:
        return list(rows)
    return [min(rows, key=measured_total), max(rows, key=measured_total)]


def quantities(rows: Sequence[Row]) -> list[str]:
    """Return the quantities to show: of what lives for a while, or on the host, only those that some rank has."""
    return [
        *KEPT,
        *(name for name in (*PASSING, *HOST) if any(row[of][name] for row in rows for of in ("planned", "measured"))),
    ]


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return a table, its head first: of each shown rank the planned and the measured bytes."""
    columns = quantities(rows)
    peaks = {"peak_resident": "most resident"}
    if any(row["peak_device"] is not None for row in rows):
        peaks["peak_device"] = "most on the GPU"
    table = [["rank", "", *map(name_of, columns), *peaks.values()]]
    for row in shown(rows):
        planned, measured = ([_size(row[of][name]) for name in columns] for of in ("planned", "measured"))
        table.append([str(row["rank"]), "planned", *planned, *["" for _ in peaks]])
        table.append(["", "measured", *measured, *(_size(row[peak]) for peak in peaks)])
    return table


def _size(count: int | None) -> str:
    return "-" if count is None else size_text(count)


def lines(rows: Sequence[Row]) -> list[str]:
    """Return the lines that tell of memory in a log."""
    table = cells(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    whose = "each rank" if len(rows) <= MAX_RANKS else f"the smallest and the largest of {len(rows):,} ranks"
    found = [f"memory of {whose}, activations at their peak in the first step:"]
    for row in table:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        found.append("  ".join(["", *left, *right]).rstrip())
    return [*found, *notes(rows)]


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what has to be said beside the table: the padding of buckets, and which plans there are not."""
    found = []
    padding = max(row["padding"] for row in rows)
    if padding:
        found.append(f"of parameters, gradients and optimizer state at most {size_text(padding)} a rank is padding")
    reasons: dict[str, list[str]] = {}
    told = [quantity for quantity in quantities(rows) if quantity not in PASSING]
    for row in rows:
        for quantity, why in row["unknown"].items():
            named = reasons.setdefault(why, [])
            if quantity in told and name_of(quantity) not in named:
                named.append(name_of(quantity))
    for why, named in reasons.items():
        found.append(f"planned {', '.join(named)}: not known in closed form, since {why}")
    return found


def surprises(rows: Sequence[Row]) -> list[str]:
    """Return one sentence for each quantity of which a rank holds another number of bytes than was planned."""
    found = []
    for quantity in (*KEPT, *HOST):
        wrong = [row for row in rows if _is_off(quantity, row["planned"][quantity], row["measured"][quantity])]
        if wrong:
            worst = max(wrong, key=lambda row: abs(row["measured"][quantity] - row["planned"][quantity]))
            name, others = name_of(quantity), f" (ranks that differ: {len(wrong):,})" if len(wrong) > 1 else ""
            found.append(
                f"warning: rank {worst['rank']} holds {worst['measured'][quantity]:,} bytes of {name} where "
                f"{worst['planned'][quantity]:,} were planned{others}; do not plan larger runs by these numbers, and "
                "report this run file."
            )
    return found


def _is_off(quantity: str, planned: int | None, measured: int | None) -> bool:
    if planned is None or measured is None:
        return False
    return abs(measured - planned) > TOLERANCES.get(quantity, 0.0) * planned
