"""Tree to text, in one canonical form: parsing the text gives the tree again.

`Call(Path("linear"), (Argument("bias", Path("true")),))`  ->  `linear(bias = true)`
"""

from __future__ import annotations

import re

from moedsl.syntax import ast

_INDENT = "  "
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
# How tightly an expression holds together: only what binds tighter than its place stands there without parentheses.
_FLOW, _SUM, _PRODUCT, _SIGNED, _CONFIGURED, _APPLIED = range(6)


def unparse(node: ast.File | ast.Statement | ast.Expr) -> str:
    """The text of a file, a statement or an expression, without a line end behind it."""
    match node:
        case ast.File():
            return _file(node)
        case ast.Import() | ast.Declaration() | ast.Assign() | ast.EditBody():
            return _statement(node, "")
        case _:
            return _expression(node, "")


# --- statements --------------------------------------------------------------------------------


def _file(file: ast.File) -> str:
    text = "\n".join(_statement(statement, "") for statement in file.statements)
    first = file.statements[0] if file.statements else None
    own = getattr(first, "doc", "")
    if not file.doc or file.doc == own:
        return text
    head = "\n".join(_comment(file.doc, ""))
    return f"{head}\n\n{text}" if text else head


def _statement(statement: ast.Statement, indent: str) -> str:
    match statement:
        case ast.Import():
            names = ", ".join(name.text for name in statement.names)
            return f"{indent}import {names} from {_string(statement.path.value)}"
        case ast.Declaration():
            return _declaration(statement, indent)
        case ast.Assign():
            targets = ", ".join(_parts(target.parts) for target in statement.targets)
            value = _expression(statement.value, indent)
            text = f"{indent}{targets} {statement.operator} {value}"
            return "\n".join([*_comment(statement.doc, indent), text])
        case ast.EditBody():
            return f"{indent}{_parts(statement.target.parts)} {_body(statement.body, indent)}"


def _declaration(declaration: ast.Declaration, indent: str) -> str:
    names = ", ".join(name.text for name in declaration.names)
    text = f"{indent}{declaration.kind.text} {names}"
    if declaration.parameters:
        text += f"({', '.join(_parameter(each, indent) for each in declaration.parameters)})"
    if declaration.base is not None:
        holds = _SIGNED if isinstance(declaration.base, ast.String) else _APPLIED
        text += f" on {_expression(declaration.base, indent, holds)}"
    if declaration.value is not None:
        text += f" = {_expression(declaration.value, indent)}"
    if declaration.body is not None:
        text += f" {_body(declaration.body, indent)}"
    return "\n".join([*_comment(declaration.doc, indent), text])


def _parameter(parameter: ast.Parameter, indent: str) -> str:
    if parameter.default is None:
        return parameter.name
    return f"{parameter.name} = {_expression(parameter.default, indent)}"


def _body(body: ast.Body, indent: str) -> str:
    if not body.statements:
        return "{}"
    inner = indent + _INDENT
    lines = "\n".join(_statement(statement, inner) for statement in body.statements)
    return f"{{\n{lines}\n{indent}}}"


def _comment(doc: str, indent: str) -> list[str]:
    return [f"{indent}# {line}".rstrip() for line in doc.split("\n")] if doc else []


# --- expressions -------------------------------------------------------------------------------


def _expression(node: ast.Expr, indent: str, holds: int = _FLOW) -> str:
    """`holds` is how tightly the place of the expression binds."""
    text, tightness = _bare(node, indent)
    marked = isinstance(node, ast.Binary | ast.Flow) and node.parenthesised
    return f"({text})" if marked or tightness < holds else text


def _bare(node: ast.Expr, indent: str) -> tuple[str, int]:
    match node:
        case ast.Number():
            return node.text, _SIGNED
        case ast.String():
            return _string(node.value), _SIGNED
        case ast.List():
            return f"[{_entries(node.items, indent)}]", _SIGNED
        case ast.Path():
            return _parts(node.parts), _APPLIED
        case ast.Call() | ast.Member():
            return _postfix(node, indent)
        case ast.Configured():
            return f"{_owner(node.recipe, indent)} {_body(node.body, indent)}", _CONFIGURED
        case ast.With():
            return f"{_owner(node.recipe, indent)} with {_body(node.body, indent)}", _CONFIGURED
        case ast.Unary():
            return f"-{_expression(node.operand, indent, _SIGNED)}", _SIGNED
        case ast.Binary():
            return _binary(node, indent)
        case ast.Flow():
            return " -> ".join(_expression(stage, indent, _SUM) for stage in node.stages), _FLOW


def _owner(recipe: ast.Expr, indent: str) -> str:
    return _expression(recipe, indent, _CONFIGURED)


def _postfix(node: ast.Call | ast.Member, indent: str) -> tuple[str, int]:
    """A call or a way on binds as tightly as what it goes on from."""
    owner = node.callee if isinstance(node, ast.Call) else node.owner
    _, tightness = _bare(owner, indent)
    after = (
        f"({_entries(node.arguments, indent)})" if isinstance(node, ast.Call) else _tail(node.parts)
    )
    return f"{_owner(owner, indent)}{after}", _CONFIGURED if tightness == _CONFIGURED else _APPLIED


def _binary(node: ast.Binary, indent: str) -> tuple[str, int]:
    tightness = _SUM if node.operator in "+-" else _PRODUCT
    left = _expression(node.left, indent, tightness)
    right = _expression(node.right, indent, tightness + 1)
    return f"{left} {node.operator} {right}", tightness


def _entries(entries: tuple[ast.Argument, ...] | tuple[ast.Item, ...], indent: str) -> str:
    texts = []
    for entry in entries:
        value = _expression(entry.value, indent)
        texts.append(value if entry.name is None else f"{entry.name} = {value}")
    return ", ".join(texts)


def _parts(parts: tuple[str | ast.Index | ast.Group, ...]) -> str:
    return _tail(parts).removeprefix(".")


def _tail(parts: tuple[str | ast.Index | ast.Group, ...]) -> str:
    text = ""
    for part in parts:
        match part:
            case str():
                text += f".{part}"
            case ast.Index():
                text += f"[{part.value}]"
            case ast.Group():
                text += f".[{', '.join(part.names)}]"
    return text


def _string(value: str) -> str:
    return '"' + re.sub(r'[\\"\n\t]', lambda found: _ESCAPES[found.group()], value) + '"'
