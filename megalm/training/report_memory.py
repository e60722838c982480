"""The memory of a run's ranks in its report: one bar of what was planned and one of what was measured, and a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from megalm.training.memory_table import Row, cells, measured_total, name_of, notes, quantities, shown, surprises, total
from megalm.training.report_markup import Node, node, table
from megalm.training.report_scale import size_text

WIDTH, LABEL, BAR, GAP = 720, 150, 14, 4
"""Pixels: of the picture and of the words before a bar; a bar's height, and the room after it."""


def memory_section(path: Path) -> list[Node]:
    """Return the picture and the table of ``RUN_DIR/memory.json``, or nothing where a run measured nothing."""
    if not path.exists():
        return []
    heading = node("h2", "Memory")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        head, *body = cells(rows)
        said = (
            "What each rank holds: parameters, gradients, optimizer state and buffers between steps, activations at "
            "their peak in the first step; planned on paper, and measured. What is offloaded is on the host."
        )
        if len(shown(rows)) < len(rows):
            said += f" Of {len(rows):,} ranks those that hold least and most; memory.json has them all."
        told = [
            node("p", f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}.")
            for sentence in (*notes(rows), *surprises(rows))
        ]
        return [heading, node("p", said), _picture(rows), table(head, body), *told]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [heading, node("p", f"{path.name} could not be read ({type(error).__name__}: {error}).")]


def _picture(rows: Sequence[Row]) -> Node:
    columns = quantities(rows)
    scale = max(1, *(max(measured_total(row), total(row["planned"])) for row in rows)) / (WIDTH - LABEL)
    drawn: list[Node] = []
    top = 0
    for row in shown(rows):
        for of in ("planned", "measured"):
            drawn.append(node("text", f"rank {row['rank']} {of}", x=0, y=top + BAR - 3))
            drawn += _bar(row[of], columns, top, scale, f"rank {row['rank']} {of}")
            top += BAR + GAP
        top += 2 * GAP
    picture = node("svg", *drawn, viewBox=f"0 0 {WIDTH} {top}", width=WIDTH, height=top, role="img")
    picture.set("aria-label", "planned and measured bytes of each rank; the table below has the numbers")
    keys = [node("span", name_of(name), class_=f"key part-{columns.index(name)}") for name in columns]
    return node("div", picture, node("p", *keys, class_="legend"), class_="scroll picture")


def _bar(sizes: Mapping[str, int | None], columns: Sequence[str], top: int, scale: float, whose: str) -> list[Node]:
    parts, left = [], float(LABEL)
    for number, name in enumerate(columns):
        size = sizes[name]
        if size:
            title = node("title", f"{whose}: {name_of(name)} {size_text(size)}")
            parts.append(
                node("rect", title, x=left, y=top, width=size / scale, height=BAR, class_=f"part part-{number}")
            )
            left += size / scale
    return parts
