"""What the compiler says to people, as values."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from moedsl.frozen import frozen, record
from moedsl.source import Span

Severity = Literal["error", "warning", "note"]


@frozen
class Label:
    span: Span
    text: str = ""


@frozen
class Edit:
    """Replace `span` by `text`; applying all edits of a diagnostic is its mend."""

    span: Span
    text: str


@frozen
class Diagnostic:
    """One finding. `code` has a page in `explain/`; `message` is a lower-case sentence without a full stop."""

    code: str
    message: str
    primary: Label
    secondary: tuple[Label, ...] = ()
    help: str = ""
    edits: tuple[Edit, ...] = ()
    severity: Severity = "error"


@record
class Sink:
    """Collects diagnostics; equal code and span are reported once."""

    found: list[Diagnostic] = field(default_factory=list)

    def error(self, code: str, message: str, span: Span, label: str = "", **more) -> None:
        self.add(Diagnostic(code, message, Label(span, label), **more))

    def warn(self, code: str, message: str, span: Span, label: str = "", **more) -> None:
        self.add(Diagnostic(code, message, Label(span, label), severity="warning", **more))

    def add(self, diagnostic: Diagnostic) -> None:
        if not any(
            d.code == diagnostic.code and d.primary.span == diagnostic.primary.span
            for d in self.found
        ):
            self.found.append(diagnostic)

    @property
    def has_errors(self) -> bool:
        return any(d.severity == "error" for d in self.found)

    def sorted(self) -> tuple[Diagnostic, ...]:
        return tuple(
            sorted(self.found, key=lambda d: (d.primary.span.file, d.primary.span.start, d.code))
        )
