"""From reductions of the grammar to nodes of the tree: one method per rule of grammar/moe.lark."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, NamedTuple

from moedsl.source import Span
from moedsl.syntax import ast
from moedsl.syntax.lexer import number_value

_ESCAPES = {'\\"': '"', "\\\\": "\\", "\\n": "\n", "\\t": "\t"}


class _Chain(NamedTuple):
    """Statements, last first. Never changed in place: after an error the parser goes back to an earlier one."""

    before: _Chain | None
    statement: ast.Statement


class _Target(NamedTuple):
    path: ast.Path
    doc: str


class _Selector(NamedTuple):
    part: str | ast.Index | ast.Group
    span: Span


class _Parameters(NamedTuple):
    found: tuple[ast.Parameter, ...]
    span: Span


class _Base(NamedTuple):
    recipe: ast.Expr


def statements_of(chain: _Chain | None) -> tuple[ast.Statement, ...]:
    found = []
    while chain is not None:
        found.append(chain.statement)
        chain = chain.before
    return tuple(reversed(found))


class Build:
    """What each rule gives, by its name or alias."""

    def start(self, children: list[Any]) -> tuple[ast.Statement, ...]:
        return statements_of(children[0])

    def expression(self, children: list[Any]) -> ast.Expr:
        return children[0]

    def nothing(self, children: list[Any]) -> None:
        return None

    def one_more(self, children: list[Any]) -> _Chain:
        return _Chain(*children)

    # --- statements ----------------------------------------------------------------------------

    def imports(self, children: list[Any]) -> ast.Import:
        word, names, _, file = children
        return ast.Import(names, self.string([file]), word.span.to(file.span))

    def declaration(self, children: list[Any]) -> ast.Declaration:
        kind, names, *rest = children
        last = rest[-1] if rest else names[-1]
        parts: dict[str, Any] = {}
        for part in rest:
            match part:
                case _Parameters():
                    parts["parameters"] = part.found
                case _Base():
                    parts["base"] = last = part.recipe
                case ast.Body():
                    parts["body"] = last = part
                case _:
                    parts["value"] = last = part
        return ast.Declaration(
            ast.Name(kind.text, kind.span),
            names,
            doc=kind.doc,
            span=kind.span.to(last.span),
            **parts,
        )

    def assign(self, children: list[Any]) -> ast.Assign:
        targets, operator, value = children
        paths = tuple(target.path for target in targets)
        span = paths[0].span.to(value.span)
        return ast.Assign(paths, operator.text, value, targets[0].doc, span)

    def edit(self, children: list[Any]) -> ast.EditBody:
        target, body = children
        return ast.EditBody(target.path, body, target.path.span.to(body.span))

    def names(self, children: list[Any]) -> tuple[ast.Name, ...]:
        return tuple(ast.Name(lexeme.text, lexeme.span) for lexeme in children)

    def parameters(self, children: list[Any]) -> _Parameters:
        found = tuple(child for child in children if isinstance(child, ast.Parameter))
        return _Parameters(found, _span(children))

    def parameter(self, children: list[Any]) -> ast.Parameter:
        name, *default = children
        end = default[0] if default else name
        return ast.Parameter(name.text, default[0] if default else None, name.span.to(end.span))

    def base(self, children: list[Any]) -> _Base:
        return _Base(children[0])

    def value(self, children: list[Any]) -> ast.Expr:
        return children[0]

    def targets(self, children: list[Any]) -> list[_Target]:
        return children

    def target(self, children: list[Any]) -> _Target:
        name, *selectors = children
        parts = (name.text, *(selector.part for selector in selectors))
        return _Target(ast.Path(parts, _span(children)), name.doc)

    def body(self, children: list[Any]) -> ast.Body:
        return ast.Body(statements_of(children[1]), _span(children))

    # --- expressions ---------------------------------------------------------------------------

    def flow(self, children: list[Any]) -> ast.Flow:
        return ast.Flow(tuple(children), span=_span(children))

    def binary(self, children: list[Any]) -> ast.Binary:
        left, operator, right = children
        return ast.Binary(operator.text, left, right, span=_span(children))

    def negative(self, children: list[Any]) -> ast.Unary:
        return ast.Unary(children[1], _span(children))

    def name(self, children: list[Any]) -> ast.Path:
        return ast.Path((children[0].text,), children[0].span)

    def call(self, children: list[Any]) -> ast.Call:
        callee, (arguments, span) = children
        return ast.Call(callee, arguments, callee.span.to(span))

    def select(self, children: list[Any]) -> ast.Path | ast.Member:
        owner, selector = children
        span = owner.span.to(selector.span)
        if isinstance(owner, ast.Path | ast.Member):
            return replace(owner, parts=(*owner.parts, selector.part), span=span)
        return ast.Member(owner, (selector.part,), span)

    def with_settings(self, children: list[Any]) -> ast.Configured:
        recipe, body = children
        return ast.Configured(recipe, body, _span(children))

    def with_edits(self, children: list[Any]) -> ast.With:
        recipe, body = children
        return ast.With(recipe, body, _span(children))

    def parenthesised(self, children: list[Any]) -> ast.Expr:
        inner, span = children[1], _span(children)
        if isinstance(inner, ast.Binary | ast.Flow):
            return replace(inner, parenthesised=True, span=span)
        return replace(inner, span=span)

    def arguments(self, children: list[Any]) -> tuple[tuple[ast.Argument, ...], Span]:
        found = tuple(child for child in children if isinstance(child, ast.Argument))
        return found, _span(children)

    def listing(self, children: list[Any]) -> ast.List:
        found = (child for child in children if isinstance(child, ast.Argument))
        items = tuple(ast.Item(entry.name, entry.value, entry.span) for entry in found)
        return ast.List(items, _span(children))

    def named(self, children: list[Any]) -> ast.Argument:
        name, value = children
        return ast.Argument(name.text, value, name.span.to(value.span))

    def positional(self, children: list[Any]) -> ast.Argument:
        return ast.Argument(None, children[0], children[0].span)

    def selector(self, children: list[Any]) -> _Selector:
        span = _span(children)
        if children[0].type == "LSQB":
            index = children[1]
            number = number_value(index.text) if index.type == "NUMBER" else None
            value = number if isinstance(number, int) else index.text
            return _Selector(ast.Index(value, span), span)
        names = tuple(child.text for child in children if child.type == "NAME")
        grouped = children[1].type == "LSQB"
        return _Selector(ast.Group(names, span) if grouped else names[0], span)

    def number(self, children: list[Any]) -> ast.Number:
        lexeme = children[0]
        value = number_value(lexeme.text)
        assert value is not None
        return ast.Number(value, lexeme.text, lexeme.text.endswith("%"), lexeme.span)

    def string(self, children: list[Any]) -> ast.String:
        lexeme = children[0]
        inner = lexeme.text[1:-1]
        text = (
            re.sub(r"\\.", lambda found: _ESCAPES[found.group()], inner) if "\\" in inner else inner
        )
        return ast.String(text, lexeme.span)


def _span(children: list[Any]) -> Span:
    return children[0].span.to(children[-1].span)
