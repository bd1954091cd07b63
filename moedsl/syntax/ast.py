"""The syntax tree: what was written, nothing decided. Every node has a span; spans never take part in equality."""

from __future__ import annotations

from dataclasses import field

from moedsl.frozen import frozen
from moedsl.source import Span

_NOWHERE = Span(0, 0)


def _span() -> Span:
    return field(default=_NOWHERE, compare=False, repr=False)


# --- expressions -------------------------------------------------------------------------------


@frozen
class Number:
    """`8`, `12.5%` (value 0.125, percent True), `1e-2`. `text` keeps the author's spelling."""

    value: int | float
    text: str
    percent: bool = False
    span: Span = _span()


@frozen
class String:
    value: str
    span: Span = _span()


@frozen
class Path:
    """A name, or a way to a place: parts are names, or `Index`, or `Group` (`gqa.[q, k]`). `Path(("x",))` is a name."""

    parts: tuple[str | Index | Group, ...]
    span: Span = _span()

    @property
    def name(self) -> str | None:
        """The name where the path is a single one."""
        return self.parts[0] if len(self.parts) == 1 and isinstance(self.parts[0], str) else None


@frozen
class Index:
    """`[3]` or `[i]` after a name."""

    value: int | str
    span: Span = _span()


@frozen
class Group:
    """`.[q, k, v]`: several names in one place of a path; pairs with a list on the other side."""

    names: tuple[str, ...]
    span: Span = _span()


@frozen
class Argument:
    """One of a call's; `name` is None where positional."""

    name: str | None
    value: Expr
    span: Span = _span()


@frozen
class Call:
    """`callee(arguments)`; callee is any expression (`geglu(2112)(x)`)."""

    callee: Expr
    arguments: tuple[Argument, ...]
    span: Span = _span()


@frozen
class Member:
    """A way on from what an expression gives: `weights("folder").ffn`; parts as in `Path`."""

    owner: Expr
    parts: tuple[str | Index | Group, ...]
    span: Span = _span()


@frozen
class Configured:
    """`recipe { settings }`: a recipe written inline with a body."""

    recipe: Expr
    body: Body
    span: Span = _span()


@frozen
class With:
    """`recipe with { edits }`."""

    recipe: Expr
    body: Body
    span: Span = _span()


@frozen
class Item:
    name: str | None
    value: Expr
    span: Span = _span()


@frozen
class List:
    """`[a, b]` or `[full = a, skip = b]`."""

    items: tuple[Item, ...]
    span: Span = _span()


@frozen
class Unary:
    """`-a`."""

    operand: Expr
    span: Span = _span()


@frozen
class Binary:
    """`+ - * /`."""

    operator: str
    left: Expr
    right: Expr
    parenthesised: bool = False
    span: Span = _span()


@frozen
class Flow:
    """`a -> b -> c`, left to right, at least two stages."""

    stages: tuple[Expr, ...]
    parenthesised: bool = False
    span: Span = _span()


Expr = Number | String | Path | Call | Member | Configured | With | List | Unary | Binary | Flow


# --- statements --------------------------------------------------------------------------------


@frozen
class Name:
    text: str
    span: Span = _span()


@frozen
class Parameter:
    name: str
    default: Expr | None = None
    span: Span = _span()


@frozen
class Import:
    """`import a, b from "file.moe"`."""

    names: tuple[Name, ...]
    path: String
    span: Span = _span()


@frozen
class Declaration:
    """`kind a, b (params) [on base] [= value] [{ body }]`. `let`, `input`, `output`, `tied` are kinds like any other.

    A body right after the names is `body`; a body after `= value` belongs to the value (Configured or With).
    """

    kind: Name
    names: tuple[Name, ...]
    parameters: tuple[Parameter, ...] = ()
    base: Expr | None = None
    value: Expr | None = None
    body: Body | None = None
    doc: str = ""
    span: Span = _span()


@frozen
class Assign:
    """`a, b.c op value` with op one of `=`, `+=`, `->=`."""

    targets: tuple[Path, ...]
    operator: str
    value: Expr
    doc: str = ""
    span: Span = _span()


@frozen
class EditBody:
    """`path { ... }` inside `with`: change in place."""

    target: Path
    body: Body
    span: Span = _span()


Statement = Import | Declaration | Assign | EditBody


@frozen
class Body:
    statements: tuple[Statement, ...]
    span: Span = _span()


@frozen
class File:
    """A whole text: healthy statements only; what could not be read is in the diagnostics."""

    statements: tuple[Statement, ...]
    doc: str = ""
    span: Span = _span()
