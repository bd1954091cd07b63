"""Defaults are text of the language, read like a user's, in the scope of the construct."""

from __future__ import annotations

import re
from functools import cache

from moedsl.constructs.declare import (
    Bank,
    Expression,
    Flag,
    Number,
    PlaceOf,
    RecipeOf,
    Setting,
    Words,
)
from moedsl.diagnostics.model import Sink
from moedsl.model.scope import Entry, Frame
from moedsl.source import Span
from moedsl.syntax import ast

_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_WHOLE = re.compile(r"\d+\Z")


@cache
def parsed(text: str) -> ast.Expr:
    """A declaration's text that cannot be read is a programmer's error."""
    if _NAME.match(text):
        return ast.Path((text,))
    if _WHOLE.match(text):
        return ast.Number(int(text), text)
    from moedsl.syntax.parser import parse_expression

    sink = Sink()
    expr = parse_expression(text, "default", sink)
    assert expr is not None and not sink.has_errors, f"the default {text!r} is not an expression"
    return expr


@cache
def constant(setting: Setting) -> str | int | float | None:
    """A default that is the same everywhere needs no working out: its word, or its number."""
    if setting.default is None or isinstance(setting, Expression | RecipeOf | Bank | PlaceOf):
        return None
    match parsed(setting.default):
        case ast.Number(value):
            return value if isinstance(setting, Number) else None
        case ast.Path() as path if path.name in words(setting):
            return path.name
    return None


def words(setting: Setting) -> tuple[str, ...]:
    """The words of a setting's own type."""
    match setting:
        case Words(choices=choices):
            return choices
        case Flag():
            return ("true", "false")
    return getattr(setting, "words", ())


def default_entry(frame: Frame, name: str) -> Entry | None:
    """The setting as it stands when the spec does not say it."""
    if frame.form is None or name not in frame.form.settings:
        return None
    text = frame.form.settings[name].default
    if text is None:
        return None
    return Entry(name, "set", _numbers(frame), None, Span(0, 0), parsed(text), implicit=True)


def _numbers(frame: Frame) -> Frame:
    """The form's numbers alone: a default never reads what a spec declared beside it."""
    return Frame(frame.owner, frame.path, frame.form, {}, frame.given, "defaults")
