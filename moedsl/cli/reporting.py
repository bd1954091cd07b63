"""Findings on their way out: to a person, or to a program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from moedsl.cli.reading import Unreadable, read_source
from moedsl.pipeline import Result
from moedsl.source import Source


def read(path: Path, root: Path | None) -> Source:
    """The spec with its imports; what cannot be read ends the command."""
    try:
        return read_source(path, root)
    except Unreadable as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def require(
    stage: Callable[..., Result], spec: Path, root: Path | None, settings: tuple[str, ...], target: str
) -> Result:
    """The result of `stage` on a spec that has no errors; where it has, they are shown and the command ends."""
    source = read(spec, root)
    result = stage(source, settings, target)
    if not result.ok:
        report = Report("text", to_errors=True)
        report.add(source, result)
        report.close()
    return result


class Report:
    """Findings of one or more specs, written together in one format."""

    def __init__(self, format: str, to_errors: bool = False) -> None:
        self.format = format
        self.to_errors = to_errors
        self.sources: list[Source] = []
        self.results: list[Result] = []

    def add(self, source: Source, result: Result) -> None:
        self.sources.append(source)
        self.results.append(result)

    def show(self) -> None:
        text = self._text() if self.format == "text" else self._data()
        if text:
            click.echo(text, err=self.to_errors, nl=not text.endswith("\n"))

    def close(self) -> NoReturn:
        self.show()
        sys.exit(int(any(not result.ok for result in self.results)))

    def _text(self) -> str:
        from moedsl.diagnostics.render import render_text

        colour = (sys.stderr if self.to_errors else sys.stdout).isatty()
        pairs = zip(self.sources, self.results, strict=True)
        return "\n".join(render_text(r.diagnostics, s, colour=colour) for s, r in pairs if r.diagnostics)

    def _data(self) -> str:
        from moedsl.diagnostics import formats

        write: dict[str, Any] = {
            "json": formats.as_json,
            "github": formats.as_github,
            "sarif": formats.as_sarif,
        }
        pairs = [(s, d) for s, r in zip(self.sources, self.results, strict=True) for d in r.diagnostics]
        return write[self.format](pairs)
