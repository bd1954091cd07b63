"""Breaking lines, so that printed code is what `ruff format` would leave alone.

The plan writes whole statements; here the few that are too long are laid out. Only the layouts that the plan can
produce are known: calls, signatures and imports (one item a line where they do not fit on one), sums in parentheses.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import pairwise

WIDTH = 88
STEP = "    "
_CHAINED = re.compile(r"(.*[)\]])(\.\w+)")  # a call, and the name of a method on its result
_OPEN, _CLOSE = "([{", ")]}"


def fits(line: str, depth: int = 0) -> bool:
    return len(line) + len(STEP) * depth <= WIDTH


def call_lines(
    head: str, items: Sequence[str], tail: str = "", depth: int = 0, brackets: bool = True
) -> tuple[str, ...]:
    """`head(a, b)tail` at `depth`, on one line, or its items on the next, or one item a line.

    Without `brackets` they appear only where the line is broken (imports). Lines come without the outer indentation.
    """
    opening, closing = ("(", ")") if brackets else ("", "")
    one = f"{head}{opening}{', '.join(items)}{closing}{tail}"
    if fits(one, depth) or not items:
        return (one,)
    opened, closed = (
        (head, tail) if head.endswith(tuple(_OPEN)) and not brackets else (f"{head}(", f"){tail}")
    )
    inner = ", ".join(items)
    if brackets and fits(inner, depth + 1):
        return (opened, STEP + inner, closed)
    lines = [f"{line}" for item in items for line in indented(_item_lines(item, depth + 1))]
    return (opened, *lines, closed)


def _item_lines(item: str, depth: int) -> tuple[str, ...]:
    if fits(f"{item},", depth):
        return (f"{item},",)
    *rest, last = expression_lines(item, depth, spare=1)
    return (*rest, f"{last},")


def statement_lines(statement: str, depth: int) -> tuple[str, ...]:
    """A simple statement (`a = b`, `return b`, `call(b)`) at `depth`."""
    if fits(statement, depth):
        return (statement,)
    head, value = _split_statement(statement)
    targets = split_items(head.removesuffix(" = "))
    first = value[: value.index("(") + 1] if "(" in value else value
    if targets and not fits(head + first, depth):  # too many names on the left
        names = indented([f"{target}," for target in targets])
        return ("(", *names, *expression_lines(value, depth, ") = "))
    return expression_lines(value, depth, head)


def expression_lines(text: str, depth: int, head: str = "", spare: int = 0) -> tuple[str, ...]:
    """`head` + `text`, broken at the last bracket or, for a sum or a tuple, inside new parentheses.

    `spare` columns are left for what follows.
    """
    if fits(head + text + " " * spare, depth):
        return (head + text,)
    if parts := split_items(text):
        return (f"{head}(", *indented([x for p in parts for x in _item_lines(p, depth + 1)]), ")")
    if parts := _branches(text):
        if fits(text, depth + 1):
            return (f"{head}(", STEP + text, ")")
        return (f"{head}(", *indented(parts), ")")
    if parts := operands(text):
        if fits(text, depth + 1):
            return (f"{head}(", STEP + text, ")")
        return (f"{head}(", *indented(parts), ")")
    place = _last_bracket(text)
    if place is None:
        return (head + text,)
    chained = _CHAINED.fullmatch(text[:place])
    if chained and not fits(head + text[: place + 1], depth):
        end = chained[2] + text[place:]
        *lines, last = expression_lines(chained[1], depth, head, spare=len(end))
        return (*lines, last + end)
    inside = text[place + 1 : -1]
    crowded = not fits(inside, depth + 1)
    if crowded and (parts := _comprehension(inside)):
        return (head + text[: place + 1], *indented(parts), text[-1])
    items = split_items(inside) or [inside]
    return _bracketed(head + text[:place], text[place], items, text[-1], depth)


def _bracketed(
    head: str, opening: str, items: list[str], closing: str, depth: int
) -> tuple[str, ...]:
    inner = ", ".join(items)
    if fits(inner, depth + 1):
        return (head + opening, STEP + inner, closing)
    if len(items) == 1 and (" for " in items[0] or opening == "["):
        return (head + opening, *indented(expression_lines(items[0], depth + 1)), closing)
    return (
        head + opening,
        *indented([line for i in items for line in _item_lines(i, depth + 1)]),
        closing,
    )


def indented(lines: Sequence[str], depth: int = 1) -> list[str]:
    return [STEP * depth + line if line else line for line in lines]


def _split_statement(statement: str) -> tuple[str, str]:
    if statement.startswith("return "):
        return "return ", statement[7:]
    for place, character in _outside(statement):
        if character == "=" and statement[place - 1 : place + 2] == " = ":
            return statement[: place + 2], statement[place + 2 :]
    return "", statement


def _outside(text: str):
    """(place, character) of every character outside brackets and strings."""
    level, quote = 0, ""
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _OPEN:
            level += 1
        elif character in _CLOSE:
            level -= 1
        elif level == 0:
            yield place, character


def split_items(text: str) -> list[str]:
    """The parts of `a, b(c, d)`; empty where there is no comma outside brackets."""
    cuts = [place for place, character in _outside(text) if character == ","]
    if not cuts:
        return []
    edges = [-1, *cuts, len(text)]
    return [text[a + 1 : b].strip() for a, b in pairwise(edges) if text[a + 1 : b].strip()]


def _branches(text: str) -> list[str]:
    """`a if b else c` -> ["a", "if b", "else c"]; empty for anything else."""
    outside = {place for place, _ in _outside(text)}
    words = re.finditer(r" (?=(?:if|else) )", text)
    cuts = [found.start() for found in words if found.start() in outside]
    edges = [0, *cuts, len(text)] if cuts else []
    return [text[a:b].strip() for a, b in pairwise(edges)]


def operands(text: str) -> list[str]:
    """`a + b * c - d` -> ["a", "+ b * c", "- d"]; products where there is no sum; empty for anything else."""
    for operators in ("+-", "*/"):
        cuts = [
            p
            for p, c in _outside(text)
            if c in operators and text[p - 1 : p] == " " == text[p + 1 : p + 2]
        ]
        if cuts:
            edges = [0, *cuts, len(text)]
            return [text[a:b].strip() for a, b in pairwise(edges)]
    return []


def _comprehension(text: str) -> list[str]:
    """`a for b in c for a in b` -> ["a", "for b in c", "for a in b"]; empty for anything else."""
    cuts = [p for p, _ in _outside(text) if text.startswith(" for ", p)]
    edges = [0, *cuts, len(text)] if cuts else []
    return [text[a:b].strip() for a, b in pairwise(edges)]


def _last_bracket(text: str) -> int | None:
    """Where the bracket opens that `text` ends with."""
    if not text or text[-1] not in _CLOSE:
        return None
    level = 0
    for place in range(len(text) - 1, -1, -1):
        level += (text[place] in _CLOSE) - (text[place] in _OPEN)
        if level == 0:
            return place
    return None


def prose(text: str, depth: int = 0, first: int = 0) -> list[str]:
    """Paragraphs wrapped to the width that is left at `depth`; `first` columns are taken on the first line."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        wrapped = textwrap.wrap(
            paragraph, WIDTH - len(STEP) * depth, initial_indent=" " * (0 if lines else first),
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        lines.extend(wrapped or [""])
    if lines and first:
        lines[0] = lines[0].lstrip(" ")
    return lines
