"""A line chart as inline SVG: axes, readable numbers, and the values of a step when the pointer rests on it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from megalm.training.report_markup import Node, node
from megalm.training.report_scale import Scale, readable

LEFT, RIGHT, TOP, BOTTOM = 58, 24, 12, 40
WIDE, NARROW = (1000, 300), (340, 220)
MAX_LINE_POINTS = 1200
MAX_HOVER_BANDS = 360

Point = tuple[int, float | None]
"""A step and its value; ``None`` where there was no finite one."""


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Args:
        name: in the legend and under the pointer.
        points: by rising step.
        marked: draw each point too, for a line of few points.
    """

    name: str
    points: Sequence[Point]
    marked: bool = False

    @property
    def values(self) -> list[float]:
        """The values that are there."""
        return [value for _, value in self.points if value is not None]


@dataclass(frozen=True)
class Frame:
    """Where steps and values lie in the drawing.

    Args:
        width: of the drawing.
        height: of the drawing.
        x: the scale of the steps.
        y: the scale of the values.
    """

    width: int
    height: int
    x: Scale
    y: Scale

    @property
    def right(self) -> int:
        """The right edge of the plot."""
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        """The lower edge of the plot."""
        return self.height - BOTTOM

    def across(self, step: float) -> float:
        """Return the horizontal place of ``step``."""
        return LEFT + (self.right - LEFT) * self.x.position(step)

    def up(self, value: float) -> float:
        """Return the vertical place of ``value``."""
        return self.bottom - (self.bottom - TOP) * self.y.position(value)


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Args:
        title: above it.
        series: its lines, in the colors of their places.
        level: a value and a name for a dashed line across.
        from_zero: whether the axis begins at 0.
        may_be_log: whether the axis may be logarithmic when the values span a wide range.
        size: ``WIDE`` or ``NARROW``.
    """

    title: str
    series: Sequence[Series]
    level: tuple[float, str] | None = None
    from_zero: bool = False
    may_be_log: bool = False
    size: tuple[int, int] = NARROW

    def figure(self) -> Node:
        """Return the chart with its title and legend; without any value, a sentence that says so."""
        caption = [node("h3", self.title)]
        values = [value for series in self.series for value in series.values]
        if not values:
            return node("figure", *caption, node("p", "No finite value was recorded."))
        y = Scale.over(values + ([self.level[0]] if self.level else []), self.from_zero, self.may_be_log)
        steps = [step for series in self.series for step, _ in series.points]
        x = Scale(min(steps) - 0.5, max(steps) + 0.5) if min(steps) == max(steps) else Scale(min(steps), max(steps))
        if y.log:
            caption[0].append(node("small", " logarithmic"))
        if len(self.series) > 1:
            caption.append(self._legend())
        label = f"{self.title} by step, from {readable(min(values))} to {readable(max(values))}"
        frame = Frame(*self.size, x, y)
        drawing = [*_axes(frame), *self._level(frame)]
        for number, series in enumerate(self.series):
            drawing += _line(series, number, frame)
        drawing += self._bands(frame)
        view = f"0 0 {frame.width} {frame.height}"
        look = "wide" if self.size == WIDE else "narrow"
        return node("figure", *caption, node("svg", *drawing, viewBox=view, role="img", aria_label=label, class_=look))

    def _legend(self) -> Node:
        return node(
            "p",
            *(node("span", series.name, class_=f"key line-{number}") for number, series in enumerate(self.series)),
            class_="legend",
        )

    def _level(self, frame: Frame) -> list[Node]:
        if self.level is None:
            return []
        value, name = self.level
        height = frame.up(value)
        return [
            node("line", x1=LEFT, x2=frame.right, y1=height, y2=height, class_="level"),
            node("text", name, x=frame.right - 4, y=height + 14, text_anchor="end", class_="level-name"),
        ]

    def _bands(self, frame: Frame) -> list[Node]:
        """Return invisible bands over the plot, each of which names the values of its step."""
        by_step: dict[int, list[str]] = {}
        for series in self.series:
            for step, value in series.points:
                said = "not finite" if value is None else readable(value)
                by_step.setdefault(step, []).append(f"{series.name} {said}")
        marked = {step for series in self.series if series.marked for step, _ in series.points}
        steps = sorted(set(sorted(by_step)[:: -(-len(by_step) // MAX_HOVER_BANDS)]) | marked)
        centers = [frame.across(step) for step in steps]
        edges = [LEFT, *((left + right) / 2 for left, right in pairwise(centers)), frame.right]
        return [
            node(
                "rect",
                node("title", f"step {step:,}: {', '.join(by_step[step])}"),
                x=float(left),
                y=TOP,
                width=float(right - left),
                height=frame.bottom - TOP,
                class_="band",
            )
            for step, (left, right) in zip(steps, pairwise(edges), strict=True)
        ]


def thinned(points: Sequence[tuple[int, float]], limit: int = MAX_LINE_POINTS) -> list[tuple[int, float]]:
    """Return at most ``limit`` points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= limit:
        return list(points)
    size = -(-2 * len(points) // limit)
    kept: list[tuple[int, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _axes(frame: Frame) -> list[Node]:
    drawn = []
    for tick in frame.y.ticks():
        height = frame.up(tick)
        drawn.append(node("line", x1=LEFT, x2=frame.right, y1=height, y2=height, class_="grid"))
        drawn.append(node("text", readable(tick), x=LEFT - 7, y=height + 4, text_anchor="end"))
    for tick in frame.x.ticks(frame.width // 70):
        if tick == int(tick):
            place = frame.across(tick)
            drawn.append(node("line", x1=place, x2=place, y1=frame.bottom, y2=frame.bottom + 4, class_="axis"))
            drawn.append(node("text", readable(tick), x=place, y=frame.bottom + 17, text_anchor="middle"))
    drawn.append(node("text", "step", x=(LEFT + frame.right) / 2, y=frame.height - 5, text_anchor="middle"))
    drawn.append(node("path", d=f"M{LEFT} {TOP}V{frame.bottom}H{frame.right}", class_="axis"))
    return drawn


def _line(series: Series, number: int, frame: Frame) -> list[Node]:
    drawn = []
    for stretch in _unbroken(series.points):
        places = [(frame.across(step), frame.up(value)) for step, value in thinned(stretch)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        drawn.append(node("path", d=f"M{path}", class_=f"line line-{number}"))
        if series.marked or len(places) == 1:
            drawn += [node("circle", cx=x, cy=y, r=3, class_=f"dot line-{number}") for x, y in places]
    return drawn


def _unbroken(points: Iterable[Point]) -> list[list[tuple[int, float]]]:
    """Return the stretches between missing values."""
    stretches: list[list[tuple[int, float]]] = [[]]
    for step, value in points:
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append((step, value))
    return [stretch for stretch in stretches if stretch]
