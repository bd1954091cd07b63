"""The geometry of the page's pictures: plain values, which templates print as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from moedsl.frozen import frozen

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 20, 14, 34
POINTS = 360  # of a line; more cannot be seen
PIXELS_BETWEEN_LABELS = 15

Scale = Callable[[float], float]


@frozen
class Series:
    """What a chart is asked to draw: y over x, `tone` names its colour, `dots` marks each point."""

    name: str
    tone: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False
    dots: bool = False


@frozen
class Tick:
    at: float
    text: str


@frozen
class Dot:
    x: float
    y: float
    text: str


@frozen
class Line:
    name: str
    tone: str
    faint: bool
    points: str
    dots: tuple[Dot, ...]


@frozen
class Label:
    """A line's name beside its end."""

    text: str
    tone: str
    y: float


@frozen
class LineChart:
    title: str
    x_title: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@frozen
class Cell:
    x: float
    y: float
    strength: float
    strong: bool
    text: str
    hint: str


@frozen
class Grid:
    """A heat map: cells of one size, and the names of its rows and columns."""

    title: str
    width: float
    height: float
    cell_width: float
    cell_height: float
    cells: tuple[Cell, ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]


def line_chart(
    title: str,
    x_title: str,
    series: Sequence[Series],
    y_range: tuple[float, float],
    label_room: int = 0,
) -> LineChart:
    low, high = y_range
    last = max((s.x[-1] for s in series if s.x), default=1.0) or 1.0
    right = WIDTH - RIGHT - label_room

    def across(x: float) -> float:
        return LEFT + (right - LEFT) * x / last

    def up(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    lines = tuple(_line(s, across, up) for s in series)
    ends = (
        [Label(s.name, s.tone, up(s.y[-1])) for s in series if s.y and not s.faint]
        if label_room
        else []
    )
    return LineChart(
        title=title,
        x_title=x_title,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        lines=lines,
        labels=_apart(ends),
        x_ticks=tuple(Tick(round(across(t), 1), _short(t)) for t in ticks(0, last, 6)),
        y_ticks=tuple(Tick(round(up(t), 1), f"{t:g}") for t in ticks(low, high, 5)),
    )


def _line(series: Series, across: Scale, up: Scale) -> Line:
    stride = max(1, math.ceil(len(series.x) / POINTS))
    kept = list(zip(series.x, series.y, strict=True))[::stride]
    places = [(round(across(x), 1), round(up(y), 1)) for x, y in kept]
    dots = (
        tuple(
            Dot(px, py, f"{series.name}: {y:.3f} at {x:g}")
            for (px, py), (x, y) in zip(places, kept, strict=True)
        )
        if series.dots
        else ()
    )
    points = " ".join(f"{x:g},{y:g}" for x, y in places)
    return Line(series.name, series.tone, series.faint, points, dots)


def _apart(labels: list[Label]) -> tuple[Label, ...]:
    """Labels pushed down until none covers another."""
    placed: list[Label] = []
    for label in sorted(labels, key=lambda one: one.y):
        least = placed[-1].y + PIXELS_BETWEEN_LABELS if placed else label.y
        placed.append(Label(label.text, label.tone, round(max(label.y, least), 1)))
    return tuple(placed)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, some `about` of them."""
    rough = (high - low) / max(1, about)
    if rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(number: float) -> str:
    return f"{number / 1000:g}k" if number >= 10_000 else f"{number:g}"


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean of the last `window` values, at each place."""
    found, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        found.append(total / min(i + 1, window))
    return found


def heat_map(
    title: str,
    rows: Sequence[tuple[str, Sequence[float]]],
    columns: Sequence[str],
    most: float,
    hints: Sequence[Sequence[str]],
    size: tuple[float, float],
    numbers: bool = False,
    left: int = 84,
) -> Grid:
    """Values from 0 to `most`, the stronger the more; where `numbers`, they stand in the cells."""
    width, height = size
    cells = tuple(
        Cell(
            x=round(left + j * width, 2),
            y=round(i * height, 2),
            strength=round(min(1.0, value / most), 3),
            strong=value / most > 0.75,
            text=f"{value:.2f}" if numbers else "",
            hint=hints[i][j],
        )
        for i, (_, values) in enumerate(rows)
        for j, value in enumerate(values)
    )
    row_ticks = tuple(Tick(round((i + 0.5) * height, 1), name) for i, (name, _) in enumerate(rows))
    column_ticks = tuple(
        Tick(round(left + (j + 0.5) * width, 1), c) for j, c in enumerate(columns) if c
    )
    return Grid(
        title=title,
        width=left + len(rows[0][1]) * width + 1,
        height=len(rows) * height,
        cell_width=width,
        cell_height=height,
        cells=cells,
        rows=row_ticks,
        columns=column_ticks,
    )
