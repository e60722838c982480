"""Draws a timetable, so that a schedule can be seen: as text for a terminal, as SVG for a page. No torch."""

from fractions import Fraction
from html import escape
from math import floor

from megalm.parallel.pipeline.action import Action, Kind
from megalm.parallel.pipeline.clock import Span, Timetable

COLOURS = {
    Kind.FORWARD: ("#9cc3e6", "forward"),
    Kind.BACKWARD: ("#a8d5a2", "backward"),
    Kind.BACKWARD_INPUT: ("#c9e6a0", "backward of the input"),
    Kind.BACKWARD_WEIGHT: ("#f2c48d", "backward of the weights"),
}
_MOST_COLUMNS = 10_000
_LEFT, _ROW, _TOP, _LETTER = 64, 26, 62, 6.6
"""Pixels: width of the ranks' names, height of a row, height of title and legend, width of a letter."""


def draw_text(timetable: Timetable, width: int | None = None) -> str:
    """Return one line a rank, to scale: a word where an action starts, dashes while it lasts, dots while nothing does.

    ::

        rank 0  0F0-0F1-........0B0-----....0B1-----
        rank 1  ....1F0-1B0-----1F1-1B1-----........

    Args:
        timetable: from ``time_program``.
        width: columns from the first start to the last end; ``None`` for as many as all words need, but at most 10,000.
            In fewer, a word that does not fit loses its stage, then its micro-batch, and what is shorter than a column
            is not seen.
    """
    if width is None:
        shortest = [(len(str(s.action)) + 1) / Fraction(s.end - s.start) for s in timetable.spans if s.end > s.start]
        columns_per_second = min(max(shortest, default=Fraction(1)), _MOST_COLUMNS / Fraction(timetable.makespan or 1))
    else:
        columns_per_second = width / Fraction(timetable.makespan or 1)
    columns = floor(timetable.makespan * columns_per_second)
    lines = [["."] * columns for _ in range(timetable.num_ranks)]
    for span in timetable.spans:
        start, end = (floor(Fraction(moment) * columns_per_second) for moment in (span.start, span.end))
        lines[span.rank][start:end] = _cell(span.action, end - start)
    names = len(str(timetable.num_ranks - 1))
    return "\n".join(f"rank {rank:>{names}}  {''.join(line)}" for rank, line in enumerate(lines))


def draw_svg(timetable: Timetable, title: str, width: float | None = None) -> str:
    """Return a picture that needs nothing else: a row a rank, a colour a kind, and what each box is when pointed at.

    Args:
        timetable: from ``time_program``.
        title: stands above.
        width: pixels from the first start to the last end, where a word that does not fit its box loses its stage, then
            its micro-batch; ``None`` for as many as all words need.
    """
    shortest = min((s.end - s.start for s in timetable.spans if s.end > s.start), default=1)
    letters = max((len(str(span.action)) + 1 for span in timetable.spans), default=1)
    makespan = float(timetable.makespan or 1)
    # Every word fits its box, unless the picture would become too wide to be looked at.
    scale = min(float(letters * _LETTER / shortest), 16_000 / makespan) if width is None else width / makespan
    whole = _LEFT + max(makespan * scale, 600) + 10
    height = _TOP + timetable.num_ranks * _ROW + 10
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole:.0f}" height="{height}" '
            f'viewBox="0 0 {whole:.0f} {height}" font-family="monospace" font-size="11">',
            f'<rect width="{whole:.0f}" height="{height}" fill="#ffffff"/>',
            f'<text x="8" y="20" font-size="15">{escape(title)}</text>',
            *_legend(timetable),
            *(f'<text x="8" y="{_TOP + rank * _ROW + 16}">rank {rank}</text>' for rank in range(timetable.num_ranks)),
            *(_box(span, scale) for span in timetable.spans),
            "</svg>",
            "",
        ]
    )


def _cell(action: Action, columns: int) -> str:
    word = str(action)
    for shorter in (word, word.removeprefix(str(action.stage)), action.kind.value, ""):
        if len(shorter) <= columns:
            return shorter.ljust(columns, "-")
    return ""


def _legend(timetable: Timetable) -> list[str]:
    shown = {span.action.kind for span in timetable.spans}
    drawn: list[str] = []
    x: float = 8
    idle = f"idle {float(timetable.bubble):.1%}"
    for colour, label in [*(COLOURS[kind] for kind in COLOURS if kind in shown), ("#ffffff", idle)]:
        drawn.append(f'<rect x="{x:.0f}" y="32" width="14" height="14" fill="{colour}" stroke="#777777"/>')
        drawn.append(f'<text x="{x + 19:.0f}" y="43">{label}</text>')
        x += 19 + (len(label) + 3) * _LETTER
    return drawn


def _box(span: Span, scale: float) -> str:
    x, width = _LEFT + float(span.start) * scale, float(span.end - span.start) * scale
    y = _TOP + span.rank * _ROW
    colour, label = COLOURS[span.action.kind]
    text = _label(span.action, width)
    told = f"{span.action}: {label} on rank {span.rank}, {float(span.start):g} to {float(span.end):g} s"
    return (
        f'<g><title>{told}</title><rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_ROW - 4}" fill="{colour}" '
        f'stroke="#777777" stroke-width="0.5"/><text x="{x + 2:.2f}" y="{y + 15}">{text}</text></g>'
    )


def _label(action: Action, width: float) -> str:
    """Return as much of the word as the box has room for."""
    columns = int((width - 2) / _LETTER)
    return _cell(action, columns).rstrip("-") if columns > 0 else ""
