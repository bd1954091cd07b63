"""Diagnostics for programs to read: JSON, commands of GitHub's runners, and SARIF 2.1.0.

Each takes pairs of a spec and a diagnostic of it, so that one output may cover many specs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from moedsl.diagnostics.codes import CODES
from moedsl.diagnostics.model import Diagnostic, Edit, Label
from moedsl.diagnostics.render import sources_of
from moedsl.source import Source, Span

Pairs = Iterable[tuple[Source, Diagnostic]]

_LEVELS = {"error": "error", "warning": "warning", "note": "notice"}


def as_json(pairs: Pairs) -> str:
    """A list of objects; lines and columns count from 1, in code points, and ends are exclusive."""
    return _dumped([_plain(Places(source), diagnostic) for source, diagnostic in pairs])


def as_github(pairs: Pairs) -> str:
    """One workflow command a line: they show as annotations beside the changed lines."""
    return "".join(_command(Places(source), diagnostic) for source, diagnostic in pairs)


def as_sarif(pairs: Pairs) -> str:
    """One run, with a rule for each code that was found."""
    found = [(Places(source), diagnostic) for source, diagnostic in pairs]
    codes = sorted({diagnostic.code for _, diagnostic in found})
    results = [_result(places, diagnostic, codes) for places, diagnostic in found]
    run = {
        "tool": {"driver": _driver(codes)},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return _dumped({"$schema": schema, "version": "2.1.0", "runs": [run]})


class Places:
    """Spans as lines and columns of the files of one spec."""

    def __init__(self, source: Source) -> None:
        self._sources = sources_of(source)

    def of(self, span: Span) -> tuple[int, int, int, int]:
        source = self._sources.get(span.file)
        if source is None:
            return 1, 1, 1, 1
        start = min(max(span.start, 0), len(source.text))
        end = min(max(span.end, start), len(source.text))
        return (*source.line_column(start), *source.line_column(end))


# --- JSON --------------------------------------------------------------------------------------


def _plain(places: Places, diagnostic: Diagnostic) -> dict[str, Any]:
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "primary": _label(places, diagnostic.primary),
        "secondary": [_label(places, label) for label in diagnostic.secondary],
        "help": diagnostic.help,
        "edits": [_edit(places, edit) for edit in diagnostic.edits],
    }


def _label(places: Places, label: Label) -> dict[str, Any]:
    return {"text": label.text, **_range(places, label.span)}


def _edit(places: Places, edit: Edit) -> dict[str, Any]:
    return {"text": edit.text, **_range(places, edit.span)}


def _range(places: Places, span: Span) -> dict[str, Any]:
    line, column, end_line, end_column = places.of(span)
    return {
        "file": span.file,
        "start": {"offset": span.start, "line": line, "column": column},
        "end": {"offset": span.end, "line": end_line, "column": end_column},
    }


# --- GitHub ------------------------------------------------------------------------------------


def _command(places: Places, diagnostic: Diagnostic) -> str:
    span = diagnostic.primary.span
    line, column, end_line, end_column = places.of(span)
    values = {"file": span.file, "line": line, "endLine": end_line, "col": column}
    if line == end_line:
        values["endColumn"] = end_column
    values["title"] = f"{diagnostic.code}: {title(diagnostic.code)}"
    settings = ",".join(f"{name}={_escaped(str(value), ',:')}" for name, value in values.items())
    texts = (diagnostic.message, diagnostic.primary.text, diagnostic.help)
    message = _escaped("\n".join(text for text in texts if text), "")
    return f"::{_LEVELS[diagnostic.severity]} {settings}::{message}\n"


def _escaped(text: str, signs: str) -> str:
    for sign in "%\r\n" + signs:
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text


# --- SARIF -------------------------------------------------------------------------------------


def _driver(codes: list[str]) -> dict[str, Any]:
    from moedsl import __version__

    rules = [{"id": code, "shortDescription": {"text": title(code)}} for code in codes]
    return {"name": "moedsl", "version": __version__, "rules": rules}


def title(code: str) -> str:
    """What a code is about; the code itself where it comes from another package."""
    return CODES.get(code, code)


def _result(places: Places, diagnostic: Diagnostic, codes: list[str]) -> dict[str, Any]:
    texts = (diagnostic.message, diagnostic.help)
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "ruleIndex": codes.index(diagnostic.code),
        "level": diagnostic.severity,
        "message": {"text": "\n".join(text for text in texts if text)},
        "locations": [_location(places, diagnostic.primary)],
    }
    if diagnostic.secondary:
        result["relatedLocations"] = [
            {"id": index, **_location(places, label)}
            for index, label in enumerate(diagnostic.secondary, 1)
        ]
    if diagnostic.edits:
        result["fixes"] = [_fix(places, diagnostic.edits)]
    return result


def _location(places: Places, label: Label) -> dict[str, Any]:
    physical = {"artifactLocation": _artifact(label.span), "region": _region(places, label.span)}
    location: dict[str, Any] = {"physicalLocation": physical}
    if label.text:
        location["message"] = {"text": label.text}
    return location


def _fix(places: Places, edits: tuple[Edit, ...]) -> dict[str, Any]:
    changes: dict[str, dict[str, Any]] = {}
    for edit in edits:
        file = edit.span.file
        change = changes.setdefault(
            file, {"artifactLocation": _artifact(edit.span), "replacements": []}
        )
        replacement = {
            "deletedRegion": _region(places, edit.span),
            "insertedContent": {"text": edit.text},
        }
        change["replacements"].append(replacement)
    return {"artifactChanges": list(changes.values())}


def _artifact(span: Span) -> dict[str, str]:
    from urllib.parse import quote

    return {"uri": quote(span.file.replace("\\", "/"))}


def _region(places: Places, span: Span) -> dict[str, int]:
    line, column, end_line, end_column = places.of(span)
    return {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column}


def _dumped(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
