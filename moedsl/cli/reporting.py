"""Findings on their way out: to a person, or to a program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from moedsl.cli.reading import Unreadable, read_source
from moedsl.diagnostics.model import Diagnostic, Label
from moedsl.pipeline import Result
from moedsl.source import Source, Span


def read(path: Path, root: Path | None) -> Source:
    """The spec with its imports; what cannot be read ends the command."""
    try:
        return read_source(path, root)
    except Unreadable as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def shown(
    source: Source,
    diagnostics: tuple[Diagnostic, ...],
    folder: Path,
    settings: tuple[str, ...] = (),
) -> tuple[Source, tuple[Diagnostic, ...]]:
    """The same with file names that are right from where the command was called: inside they are relative to the root.
    Settings of the command line are texts that one may point into, too."""

    def moved(span: Span) -> Span:
        known = span.file in source.files or span.file == source.path
        return replace(span, file=(folder / span.file).as_posix()) if known else span

    def label(one: Label) -> Label:
        return replace(one, span=moved(one.span))

    files = {(folder / name).as_posix(): text for name, text in source.files.items()}
    files |= {f"--set {i}": text for i, text in enumerate(settings, 1)}
    return Source(source.text, (folder / source.path).as_posix(), files), tuple(
        replace(
            d,
            primary=label(d.primary),
            secondary=tuple(map(label, d.secondary)),
            edits=tuple(replace(edit, span=moved(edit.span)) for edit in d.edits),
        )
        for d in diagnostics
    )


def require(
    stage: Callable[..., Result],
    spec: Path,
    root: Path | None,
    settings: tuple[str, ...],
    target: str,
) -> Result:
    """The result of `stage` on a spec that has no errors; where it has, they are shown and the command ends."""
    source = read(spec, root)
    result = stage(source, settings, target)
    if not result.ok:
        report = Report("text", to_errors=True)
        report.add(source, result, root or spec.parent, settings)
        report.close()
    return result


class Report:
    """Findings of one or more specs, written together in one format."""

    def __init__(self, format: str, to_errors: bool = False) -> None:
        self.format = format
        self.to_errors = to_errors
        self.found: list[tuple[Source, tuple[Diagnostic, ...]]] = []
        self.failed = False

    def add(self, source: Source, result: Result, folder: Path, settings: tuple[str, ...]) -> None:
        """`folder` is the root that the source's names are relative to."""
        self.found.append(shown(source, result.diagnostics, folder, settings))
        self.failed |= not result.ok

    def show(self) -> None:
        text = self._text() if self.format == "text" else self._data()
        if text:
            click.echo(text, err=self.to_errors, nl=not text.endswith("\n"))

    def close(self) -> NoReturn:
        self.show()
        sys.exit(int(self.failed))

    def _text(self) -> str:
        from moedsl.diagnostics.render import render_text

        colour = (sys.stderr if self.to_errors else sys.stdout).isatty()
        return "\n".join(
            render_text(found, source, colour=colour) for source, found in self.found if found
        )

    def _data(self) -> str:
        from moedsl.diagnostics import formats

        write: dict[str, Any] = {
            "json": formats.as_json,
            "github": formats.as_github,
            "sarif": formats.as_sarif,
        }
        return write[self.format]([(source, d) for source, found in self.found for d in found])
