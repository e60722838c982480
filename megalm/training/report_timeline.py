"""The timeline of a traced run in its report: one step as it was, beside what the clock predicts."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from megalm.layout import Layout
from megalm.parallel.pipeline.draw import draw_svg
from megalm.training.report_markup import Node, node
from megalm.training.timeline import read_timeline

WIDTH = 1600
"""Pixels of a step."""
SVG = "{http://www.w3.org/2000/svg}"


def timeline_section(traces: Mapping[int, Path], layout: Layout) -> list[Node]:
    """Return the pictures of the first pipeline's median step, or nothing where a rank of it has no trace.

    Args:
        traces: the files by rank.
        layout: of the run.

    Raises:
        UserError: a trace cannot be read.
    """
    pipeline = layout.ranks_along(("pp",), 0)
    if not all(rank in traces for rank in pipeline):
        return []
    timeline = read_timeline([traces[rank] for rank in pipeline])
    if timeline is None:
        return []
    measured, predicted = timeline.measured, timeline.predicted
    said = (
        f"Step {timeline.step}, the median of {timeline.steps} traced ones, on the first pipeline. Its ranks were idle "
        f"for {float(measured.bubble):.1%} of {float(measured.makespan):.3g} s; with the median costs of each stage "
        f"and no time for sending, the clock predicts {float(predicted.bubble):.1%} of {float(predicted.makespan):.3g} "
        "s. The optimizer is left out. trace.json holds the last steps of all ranks for chrome://tracing and Perfetto."
    )
    pictures = [
        node("div", _picture(draw_svg(timetable, title, WIDTH)), class_="scroll picture")
        for timetable, title in ((measured, "measured"), (predicted, "predicted"))
    ]
    return [node("h2", "Timeline"), node("p", said), *pictures]


def _picture(svg: str) -> Node:
    """Return the picture as a part of the page, where elements of SVG need no namespace of their own."""
    root = ET.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
    return root
