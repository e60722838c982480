"""The layout of a run as a picture: one box a rank, one panel a pipeline stage, and the groups along each axis."""

from megalm.layout import AXES, Coordinates, Layout
from megalm.training.report_markup import Node, node, table

CELL_WIDTH, CELL_HEIGHT, GAP, HEAD = 92, 40, 8, 24
MAX_STAGES, MAX_ROWS, MAX_COLUMNS = 8, 8, 8


def layout_section(layout: Layout) -> Node:
    """Return the picture and the table of a layout; of a large one the picture shows the first ranks of each axis."""
    sizes = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, layout.sizes, strict=True))
    said = f"{sizes}, {layout.world_size:,} rank{'s' if layout.world_size > 1 else ''}."
    rows = layout.dp * layout.cp
    if layout.pp > MAX_STAGES or rows > MAX_ROWS or layout.tp > MAX_COLUMNS:
        said += " The picture shows the first of each axis."
    return node("div", node("p", said), _picture(layout), _groups(layout))


def _picture(layout: Layout) -> Node:
    stages, rows, columns = (
        min(layout.pp, MAX_STAGES),
        min(layout.dp * layout.cp, MAX_ROWS),
        min(layout.tp, MAX_COLUMNS),
    )
    panel_width, height = columns * (CELL_WIDTH + GAP) + GAP, HEAD + rows * (CELL_HEIGHT + GAP) + GAP
    drawn = []
    for pp in range(stages):
        left = pp * (panel_width + GAP)
        drawn.append(node("rect", x=left, y=HEAD, width=panel_width, height=height - HEAD, rx=6, class_="panel"))
        drawn.append(node("text", f"pp {pp}", x=left + GAP, y=HEAD - 8, class_="strong"))
        for row in range(rows):
            dp, cp = divmod(row, layout.cp)
            for tp in range(columns):
                x, y = left + GAP + tp * (CELL_WIDTH + GAP), HEAD + GAP + row * (CELL_HEIGHT + GAP)
                drawn.append(_cell(layout, Coordinates(pp, dp, cp, tp), x, y))
    width = stages * (panel_width + GAP) - GAP
    picture = node("svg", *drawn, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img")
    picture.set("aria-label", "the ranks by their coordinates")
    return node("div", picture, class_="scroll picture")


def _cell(layout: Layout, place: Coordinates, x: int, y: int) -> Node:
    rank = layout.rank(place)
    whole = ", ".join(f"{axis} {position}" for axis, position in zip(AXES, place, strict=True))
    shown = " ".join(f"{axis}{getattr(place, axis)}" for axis in ("dp", "cp", "tp") if axis != "cp" or layout.cp > 1)
    return node(
        "g",
        node("title", f"rank {rank}: {whole}"),
        node("rect", x=x, y=y, width=CELL_WIDTH, height=CELL_HEIGHT, rx=4, class_="cell"),
        node("text", f"rank {rank}", x=x + CELL_WIDTH / 2, y=y + 17, text_anchor="middle", class_="strong"),
        node("text", shown, x=x + CELL_WIDTH / 2, y=y + 32, text_anchor="middle"),
    )


def _groups(layout: Layout) -> Node:
    body = []
    for axis in (*AXES, "ep"):
        size = getattr(layout, axis)
        ranks = layout.expert_ranks(0) if axis == "ep" else layout.ranks_along((axis,), 0)
        shown = ", ".join(str(rank) for rank in ranks[:MAX_ROWS])
        first = f"rank{'s' if len(ranks) > 1 else ''} {shown}{', ...' if len(ranks) > MAX_ROWS else ''}"
        meaning = Layout.model_fields[axis].description or ""
        body.append([axis, str(size), f"{layout.world_size // size:,}", first, meaning])
    return table(["axis", "ranks along it", "groups", "the first group", "what it does"], body)
