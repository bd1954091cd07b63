"""The lines of one source with marks under them: what stands between `-->` and the help of a diagnostic."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from moedsl.diagnostics.model import Label
from moedsl.frozen import frozen
from moedsl.source import Source

TAB = 4
WIDEST = 160
_BEFORE = 60

Paint = Callable[[str, bool], str]
"""Colours a mark or a label's text; True for those of the primary label."""


@frozen
class Mark:
    """A label on one line: columns as shown on a terminal, half-open."""

    start: int
    end: int
    text: str
    primary: bool


@frozen
class Reach:
    """A label over several lines: where it starts and ends, lines from 1 and columns in code points from 0."""

    first: int
    first_column: int
    last: int
    last_column: int
    text: str
    primary: bool


def place(label: Label, primary: bool, source: Source) -> Reach:
    """Where a label stands, whatever its offsets are: none reaches out of the text."""
    size = len(source.text)
    start = min(max(label.span.start, 0), size)
    end = min(max(label.span.end, start), size)
    # A line end at the end of the span belongs to the line before.
    while end > start + 1 and source.text[end - 1] == "\n":
        end -= 1
    first, first_column = source.line_column(start)
    last, last_column = source.line_column(max(end - 1, start))
    return Reach(first, first_column - 1, last, last_column - (end == start), label.text, primary)


def draw(source: Source, reaches: list[Reach], paint: Paint) -> list[tuple[int | None, str]]:
    """Rows of (line number or None, text). The first label over several lines gets a rail at the left; further ones
    are shown where they start."""
    rail = next((reach for reach in reaches if reach.first < reach.last), None)
    rows: list[tuple[int | None, str]] = []
    for number in _shown_lines(reaches, rail):
        if rail and number == rail.first + 2 < rail.last and not _has_own(reaches, rail, number):
            rows.append((None, paint("|", rail.primary) + " ..."))
            continue
        rows += _line(source, number, reaches, rail, paint)
    return rows


def _shown_lines(reaches: list[Reach], rail: Reach | None) -> list[int]:
    lines = {reach.first for reach in reaches}
    if rail:
        lines |= {rail.first + 1, rail.last} | (
            {rail.first + 2} if rail.first + 2 < rail.last else set()
        )
    return sorted(lines)


def _has_own(reaches: list[Reach], rail: Reach, number: int) -> bool:
    return any(reach.first == number for reach in reaches if reach is not rail)


def _line(
    source: Source, number: int, reaches: list[Reach], rail: Reach | None, paint: Paint
) -> list[tuple[int | None, str]]:
    line = source.line(number).rstrip("\r")
    here = [reach for reach in reaches if reach.first == number and reach is not rail]
    window = _window(line, [reach.first_column for reach in here])
    inside = rail is not None and rail.first < number <= rail.last
    edge = (paint("|", rail.primary) + " " if inside else "  ") if rail else ""
    rows: list[tuple[int | None, str]] = [(number, f"{edge}{_cut(line, window)}".rstrip())]
    marks = [_mark(line, window, reach) for reach in here]
    rows += [(None, f"{edge}{row}") for row in _mark_rows(marks, paint)]
    if rail and number == rail.first:
        rows.append((None, _rail_start(line, window, rail, paint)))
    if rail and number == rail.last:
        rows.append((None, _rail_end(line, window, rail, paint)))
    return rows


# --- one line ----------------------------------------------------------------------------------


def _window(line: str, columns: list[int]) -> tuple[int, int]:
    """The part of a very long line that is shown."""
    if len(line) <= WIDEST:
        return 0, len(line)
    start = max(min(columns, default=0) - _BEFORE, 0)
    return start, start + WIDEST


def _cut(line: str, window: tuple[int, int]) -> str:
    start, end = window
    head, tail = "..." if start else "", "..." if end < len(line) else ""
    return f"{head}{shown(line[start:end])}{tail}"


def _column(line: str, window: tuple[int, int], column: int) -> int:
    start, end = window
    return (3 if start else 0) + len_shown(line[start : min(max(column, start), end)])


def _mark(line: str, window: tuple[int, int], reach: Reach) -> Mark:
    end_column = len(line) if reach.last > reach.first else reach.last_column
    start = _column(line, window, reach.first_column)
    end = max(_column(line, window, end_column), start + 1)
    return Mark(start, end, reach.text, reach.primary)


def _mark_rows(marks: list[Mark], paint: Paint) -> list[str]:
    """The row of carets with the text of the rightmost label behind it; other texts hang below their marks."""
    if not marks:
        return []
    ordered = sorted(marks, key=lambda mark: (mark.start, mark.end))
    last = ordered[-1]
    inline = last.end >= max(mark.end for mark in ordered) and (
        not last.text or all(mark.start != last.start for mark in ordered[:-1])
    )
    row = _carets(ordered, paint)
    if inline and last.text:
        row += " " + paint(shown(last.text), last.primary)
    hanging = [mark for mark in ordered if mark.text and not (inline and mark is last)]
    return [row, *_hanging_rows(hanging, paint)]


def _carets(marks: list[Mark], paint: Paint) -> str:
    """Where marks overlap, the primary one is seen."""
    cells = [" "] * max(mark.end for mark in marks)
    for mark in sorted(marks, key=lambda mark: mark.primary):
        for column in range(mark.start, mark.end):
            cells[column] = "^" if mark.primary else "-"
    row = "".join(cells)
    return "".join(paint(run, run[0] == "^") if run[0] != " " else run for run in _runs(row))


def _runs(row: str) -> list[str]:
    runs: list[str] = []
    for char in row:
        if runs and runs[-1][0] == char:
            runs[-1] += char
        else:
            runs.append(char)
    return runs


def _hanging_rows(marks: list[Mark], paint: Paint) -> list[str]:
    """Right to left, so that no stem crosses a text."""
    rows = []
    left = list(marks)
    while left:
        if len(left) == len(marks):
            rows.append(_stems(left, paint))
        mark = left.pop()
        others = [other for other in left if other.start < mark.start]
        stems = _stems(others, paint)
        width = max((other.start + 1 for other in others), default=0)
        rows.append(stems + " " * (mark.start - width) + paint(shown(mark.text), mark.primary))
    return rows


def _stems(marks: list[Mark], paint: Paint) -> str:
    row, width = "", 0
    for mark in marks:
        if mark.start >= width:
            row += " " * (mark.start - width) + paint("|", mark.primary)
            width = mark.start + 1
    return row


# --- rails -------------------------------------------------------------------------------------


def _rail_start(line: str, window: tuple[int, int], rail: Reach, paint: Paint) -> str:
    column = _column(line, window, rail.first_column)
    return " " + paint("_" * (column + 1) + _sign(rail), rail.primary)


def _rail_end(line: str, window: tuple[int, int], rail: Reach, paint: Paint) -> str:
    column = _column(line, window, max(rail.last_column - 1, 0))
    text = f" {shown(rail.text)}" if rail.text else ""
    return paint("|" + "_" * (column + 1) + _sign(rail) + text, rail.primary)


def _sign(reach: Reach) -> str:
    return "^" if reach.primary else "-"


# --- characters --------------------------------------------------------------------------------


def shown(text: str) -> str:
    """Text that a terminal shows as it stands: tabs as spaces, and nothing that moves the cursor or hides."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_cell(char) for char in text)


def len_shown(text: str) -> int:
    """How many columns it takes."""
    if text.isascii():
        return len(text) + text.count("\t") * (TAB - 1)
    return sum(_width(char) for char in _expanded(text))


def _expanded(text: str) -> str:
    return "".join(_cell(char) for char in text)


def _cell(char: str) -> str:
    if char == "\t":
        return " " * TAB
    return char if char.isprintable() or unicodedata.combining(char) else "\ufffd"


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
