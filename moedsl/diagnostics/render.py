"""Diagnostics for people to read: the message, the lines that it is about, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from moedsl.diagnostics.model import Diagnostic, Label
from moedsl.diagnostics.snippet import Reach, draw, place, shown
from moedsl.source import Source

LIMIT = 20

_RESET, _BOLD, _BLUE, _CYAN = "\x1b[0m", "\x1b[1m", "\x1b[1;34m", "\x1b[1;36m"
_SEVERITIES = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "note": "\x1b[1;32m"}


def render(
    diagnostics: Iterable[Diagnostic], sources: Mapping[str, Source], color: bool = False
) -> str:
    """The first diagnostics in full, and how many more there are. `sources` by the file that spans name."""
    found = list(diagnostics)
    texts = []
    explained: set[str] = set()
    for diagnostic in found[:LIMIT]:
        texts.append(_one(diagnostic, sources, diagnostic.code not in explained, color))
        explained.add(diagnostic.code)
    if len(found) > LIMIT:
        texts.append(f"... and {len(found) - LIMIT} more\n")
    return "\n".join(texts)


def render_text(diagnostics: Iterable[Diagnostic], source: Source, colour: bool = False) -> str:
    """The same for one spec and what it imports."""
    return render(diagnostics, sources_of(source), colour)


def sources_of(source: Source) -> dict[str, Source]:
    """Every text that a diagnostic of this spec may point into, by file name."""
    imported = {path: Source(text, path) for path, text in source.files.items()}
    return imported | {source.path: source}


def _one(diagnostic: Diagnostic, sources: Mapping[str, Source], explain: bool, color: bool) -> str:
    strong = _SEVERITIES[diagnostic.severity]
    head = _painted(f"{diagnostic.severity}[{diagnostic.code}]", strong, color)
    lines = [f"{head}{_painted(f': {shown(diagnostic.message)}', _BOLD, color)}"]
    drawings = [(file, sources.get(file), labels) for file, labels in _by_file(diagnostic).items()]
    width = max((_number_width(source, labels) for _, source, labels in drawings), default=1)
    for index, (file, source, labels) in enumerate(drawings):
        arrow = "-->" if index == 0 else ":::"
        if index:
            lines.append(_painted(f"{' ' * width} |", _BLUE, color))
        lines += _drawing(arrow, file, source, labels, width, strong, color)
    if help := _help(diagnostic, explain, color):
        lines += [_painted(f"{' ' * width} |", _BLUE, color), *help]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _by_file(diagnostic: Diagnostic) -> dict[str, list[tuple[Label, bool]]]:
    """Labels with whether they are primary, the file of the primary one first."""
    files = {diagnostic.primary.span.file: [(diagnostic.primary, True)]}
    for label in diagnostic.secondary:
        files.setdefault(label.span.file, []).append((label, False))
    return files


def _number_width(source: Source | None, labels: list[tuple[Label, bool]]) -> int:
    if source is None:
        return 1
    return len(str(max(place(label, primary, source).last for label, primary in labels)))


def _drawing(
    arrow: str,
    file: str,
    source: Source | None,
    labels: list[tuple[Label, bool]],
    width: int,
    strong: str,
    color: bool,
) -> list[str]:
    pad = " " * width
    pointer = _painted(f"{pad}{arrow}", _BLUE, color)
    bar = _painted(f"{pad} |", _BLUE, color)
    if source is None:
        texts = [f"{bar} {shown(label.text)}" for label, _ in labels if label.text]
        return [f"{pointer} {shown(file)}", *texts]
    reaches = [place(label, primary, source) for label, primary in labels]

    def paint(text: str, primary: bool) -> str:
        return _painted(text, strong if primary else _BLUE, color)

    lines = [f"{pointer} {shown(file)}:{_position(reaches[0])}", bar]
    for number, row in draw(source, reaches, paint):
        gutter = bar if number is None else _painted(f"{number:>{width}} |", _BLUE, color)
        lines.append(f"{gutter} {row}")
    return lines


def _position(reach: Reach) -> str:
    return f"{reach.first}:{reach.first_column + 1}"


def _help(diagnostic: Diagnostic, explain: bool, color: bool) -> list[str]:
    lines = diagnostic.help.split("\n") if diagnostic.help else []
    if explain:
        lines.append(f"run `moedsl explain {diagnostic.code}` for more")
    if not lines:
        return []
    head = _painted("help", _CYAN, color)
    return [f"{head}: {shown(lines[0])}", *(f"      {shown(line)}" for line in lines[1:])]


def _painted(text: str, style: str, color: bool) -> str:
    return f"{style}{text}{_RESET}" if color and text else text
