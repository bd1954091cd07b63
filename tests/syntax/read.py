"""Short forms for tests: text to tree, and what was said about it."""

from __future__ import annotations

from moedsl.diagnostics.model import Diagnostic, Sink
from moedsl.source import Source
from moedsl.syntax import ast
from moedsl.syntax.parser import parse, parse_expression


def read(text: str) -> tuple[ast.File, list[Diagnostic]]:
    sink = Sink()
    return parse(Source(text, "spec.moe"), sink), list(sink.sorted())


def healthy(text: str) -> ast.File:
    tree, found = read(text)
    assert not found, [(each.code, each.message) for each in found]
    return tree


def only(text: str) -> ast.Statement:
    (statement,) = healthy(text).statements
    return statement


def expression(text: str) -> ast.Expr:
    sink = Sink()
    found = parse_expression(text, "--set", sink)
    assert found is not None and not sink.found, sink.found
    return found


def codes(text: str) -> list[str]:
    return [each.code for each in read(text)[1]]


def marked(text: str) -> list[tuple[str, str]]:
    """Each finding's code and the text that it points at."""
    found = read(text)[1]
    return [(each.code, text[each.primary.span.start : each.primary.span.end]) for each in found]


def mended(text: str) -> str:
    """The text with the edits of its only finding made."""
    (diagnostic,) = read(text)[1]
    for edit in sorted(diagnostic.edits, key=lambda edit: edit.span.start, reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text
