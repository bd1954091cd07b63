"""Frames laid out and drawn without help: each box under all that it reads, frames side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from moedsl.cli.drawing import Box, Frame

HIGH, APART, BELOW, EDGE = (
    26,
    16,
    30,
    24,
)  # a box, the room beside it, the room under it, a frame's rim
LETTER = 6.6
_STYLE = """<style>
  text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #22211e; }
  .title { font-weight: 600; } .shape { font-size: 10px; fill: #77746c; }
  .frame { fill: #fbfaf7; stroke: #d9d6cc; } .arrow { fill: none; stroke: #a5a198; }
  .plain { fill: #ffffff; stroke: #c9c6bb; } .weight { fill: #dbe9fa; stroke: #8db4e2; }
  .call { fill: #fbe9dc; stroke: #dfa67d; } .input, .output { fill: none; stroke: none; }
</style>"""


@dataclass(frozen=True)
class Placed:
    box: Box
    x: float
    y: float
    width: float


def draw(frames: list[Frame]) -> str:
    left, tallest = float(EDGE), 0.0
    parts: list[str] = []
    for frame in frames:
        placed = _layout(frame)
        width = (
            max(max(p.x + p.width for p in placed.values()), len(frame.title) * LETTER) + 2 * EDGE
        )
        height = max(p.y for p in placed.values()) + HIGH + 2 * EDGE + 18
        parts.append(f'<g transform="translate({left:g} {EDGE})">')
        parts.append(f'<rect class="frame" width="{width:g}" height="{height:g}" rx="10"/>')
        parts.append(f'<text class="title" x="{EDGE}" y="26">{escape(frame.title)}</text>')
        parts.append(f'<g transform="translate({EDGE} {EDGE + 18})">')
        parts += _arrows(frame, placed)
        parts += _boxes(placed)
        parts.append("</g></g>")
        left += width + EDGE
        tallest = max(tallest, height)
    size = f'viewBox="0 0 {left:g} {tallest + 2 * EDGE:g}" width="{left:g}" height="{tallest + 2 * EDGE:g}"'
    return "\n".join(
        (f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', _STYLE, *parts, "</svg>", "")
    )


def _layout(frame: Frame) -> dict[str, Placed]:
    """Rows by longest way from an input; inputs stand right above what first reads them."""
    depth: dict[str, int] = {box.id: 0 for box in frame.boxes}
    for box in frame.boxes:
        depth[box.id] = max(
            (depth[a.start] + 1 for a in frame.arrows if a.end == box.id), default=0
        )
    for box in frame.boxes:
        if box.form == "input":
            depth[box.id] = max(
                0, min((depth[a.end] for a in frame.arrows if a.start == box.id), default=1) - 1
            )
    rows: dict[int, list[Box]] = defaultdict(list)
    for box in frame.boxes:
        rows[depth[box.id]].append(box)
    widest = max(_width(row) for row in rows.values())
    found = {}
    for number, row in rows.items():
        x = (widest - _width(row)) / 2
        for box in row:
            width = _box_width(box)
            found[box.id] = Placed(box, round(x, 1), number * (HIGH + BELOW), width)
            x += width + APART
    return found


def _box_width(box: Box) -> float:
    return round(len(box.text) * LETTER + 20, 1)


def _width(row: list[Box]) -> float:
    return sum(_box_width(box) for box in row) + APART * (len(row) - 1)


def _arrows(frame: Frame, placed: dict[str, Placed]) -> Iterator[str]:
    labelled = set()
    for arrow in frame.arrows:
        start, end = placed[arrow.start], placed[arrow.end]
        x1, y1 = start.x + start.width / 2, start.y + HIGH
        x2, y2 = end.x + end.width / 2, end.y
        middle = (y1 + y2) / 2
        yield f'<path class="arrow" d="M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"/>'
        if (arrow.start, arrow.text) in labelled:
            continue  # what is read twice has its shape written once
        labelled.add((arrow.start, arrow.text))
        yield f'<text class="shape" x="{(x1 + x2) / 2 + 4:g}" y="{middle + 3:g}">{escape(arrow.text)}</text>'


def _boxes(placed: dict[str, Placed]) -> Iterator[str]:
    for one in placed.values():
        form = one.box.form
        yield f'<rect class="{form}" x="{one.x:g}" y="{one.y:g}" width="{one.width:g}" height="{HIGH}" rx="6"/>'
        x, y = one.x + one.width / 2, one.y + 17
        yield f'<text x="{x:g}" y="{y:g}" text-anchor="middle">{escape(one.box.text)}</text>'
