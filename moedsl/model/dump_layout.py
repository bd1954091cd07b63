"""How the text of a resolved spec is laid out."""

from __future__ import annotations

_WIDE = 100
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}


def named(name: str | None, text: str) -> str:
    return text if name is None else f"{name} = {text}"


def grouped(text: str, needed: bool) -> str:
    return f"({text})" if needed else text


def fits(line: str) -> bool:
    return len(line) <= _WIDE and "\n" not in line


def arrows(parts: list[str]) -> str:
    line = " -> ".join(parts)
    return line if fits(line) else "\n  -> ".join(parts)


def bracketed(left: str, parts: list[str], right: str) -> str:
    """On one line where it fits."""
    line = f"{left}{', '.join(parts)}{right}"
    if fits(line):
        return line
    inner = indented(",\n".join(parts))
    return f"{left}\n{inner}\n{right}" if parts else line


def braced(head: str, lines: list[str]) -> str:
    return f"{head} {{\n{indented(chr(10).join(lines))}\n}}"


def aligned(rows: list[tuple[str, str]]) -> list[str]:
    widest = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{widest}} = {text}" for name, text in rows]


def indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else line for line in text.split("\n"))


def quoted(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'
