"""Names and where they mean what: the definition tree that edits change before anything is evaluated.

A `Frame` holds the names of one body after all edits; an `Entry` is one of them, with the environment its right-hand
side was written in. An `Env` is a frame seen from one of its entries. Late binding is nothing but this: an entry that
came from `a` is evaluated in the frame of `b = a with { ... }`, and only then in the file it was written in.
"""

from __future__ import annotations

from dataclasses import field, replace
from functools import cache
from typing import Any

from moedsl.constructs.declare import Construct, Number, Setting
from moedsl.frozen import frozen, record
from moedsl.source import Span
from moedsl.syntax import ast

NOWHERE = Span(0, 0)
TENSORS = frozenset({"tensor", "let", "input"})


@frozen(eq=False)
class Layer:
    """Statements about one body, and where they were written: the body itself, or one edit of it."""

    statements: tuple[ast.Statement, ...]
    env: Env | None
    edit: bool = False


@frozen
class Numbering:
    """One flow, whose blocks are numbered from 0. `plans`: the by_layer plans it met, with their lengths."""

    plans: dict[int, tuple[int, Span]] = field(default_factory=dict, compare=False)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@frozen(eq=False)
class Plan:
    """What `by_layer` holds: one expression a layer. Equal layers hold the same object."""

    slots: tuple[ast.Expr, ...]
    env: Env


@frozen(eq=False)
class At:
    """What depends on where one is and not on where the text stands: the block's position, the bank's size.

    `blame` is the place in the user's text to show for text that is not the user's (defaults).
    """

    index: int | None = None
    flow: Numbering | None = None
    outside: At | None = None
    choices: int | None = None
    blame: Span | None = None

    def where(self, node: Any) -> Span:
        return self.blame or node.span

    def blaming(self, span: Span | None) -> At:
        if self.blame == span:
            return self
        return At(self.index, self.flow, self.outside, self.choices, span)

    def index_in(self, flow: Numbering) -> int | None:
        at: At | None = self
        while at is not None:
            if at.flow is flow:
                return at.index
            at = at.outside
        return None


@record
class Entry:
    """One name of a body. kind: the word it was declared with (`norm`, `let`, ...), `set` for `name = value`,
    `parameter`, `tensor` for an implicit one. `old` is what it replaced: its own right-hand side sees that one."""

    name: str
    kind: str
    frame: Frame
    outer: Env | None
    span: Span = NOWHERE
    value: ast.Expr | None = None
    body: ast.Body | None = None
    parameters: tuple[ast.Parameter, ...] = ()
    base: ast.Expr | None = None
    operator: str = "="
    old: Entry | None = None
    edits: tuple[Layer, ...] = ()
    doc: str = ""
    at: At | None = None
    implicit: bool = False
    layer: Layer | None = None
    used: bool = False
    _env: Env | None = None

    @property
    def env(self) -> Env:
        """Where its right-hand side is read: its body's names, itself hidden, then what surrounds the text."""
        if self.kind == "parameter" and self.outer is not None:
            return self.outer
        if self._env is None:
            self._env = Env(self.frame, self.outer, self)
        return self._env

    @property
    def is_tensor(self) -> bool:
        return self.kind in TENSORS

    def edited(self, layer: Layer, frame: Frame) -> Entry:
        """The same, changed in place: the change reads the names of the frame that now holds it."""
        entry = replace(self, old=self, layer=None, _env=None, used=False)
        entry.edits = (
            *self.edits,
            Layer(layer.statements, Env(frame, layer.env, entry), True),
        )
        return entry


@record
class Frame:
    """The names of one body. Settings of a form (`form` is its construct) are not names, except that numbers may be
    read by other numbers of the same body."""

    owner: str = ""
    path: str = ""
    form: type[Construct] | None = None
    names: dict[str, Entry] = field(default_factory=dict)
    given: dict[str, Entry] = field(default_factory=dict)
    scope: str = "form"

    def find(self, name: str) -> Entry | None:
        entry = self.names.get(name)
        if entry is None and self.form is not None:
            setting: Setting | None = self.form.settings.get(name)
            return self.setting(name) if isinstance(setting, Number) else None
        return entry

    def setting(self, name: str) -> Entry | None:
        """A setting as given, or as it stands by default; None where it is neither."""
        from moedsl.model.defaults import default_entry

        if name not in self.given:
            entry = default_entry(self, name)
            if entry is None:
                return None
            self.given[name] = entry
        return self.given[name]


@record
class Env:
    frame: Frame
    outer: Env | None = None
    hidden: Entry | None = None

    def find(self, name: str) -> Entry | None:
        env: Env | None = self
        while env is not None:
            if env.hidden is not None and env.hidden.name == name:
                entry = env.hidden.old
            else:
                entry = env.frame.find(name)
            if entry is not None:
                return entry
            env = env.outer
        return None

    def names(self) -> dict[str, None]:
        """Every name in scope, nearest first: for suggestions."""
        found: dict[str, None] = {}
        env: Env | None = self
        while env is not None:
            found.update(dict.fromkeys(env.frame.names))
            env = env.outer
        return found


@record
class Without(Env):
    """An environment in which a name means nothing: what stands there is no tensor, whatever tensors are called."""

    name: str = ""

    def find(self, name: str) -> Entry | None:
        return None if name == self.name or self.outer is None else self.outer.find(name)


@cache
def implicit(*names: str) -> Frame:
    """A frame of implicit tensors, shared by all that see the same."""
    return tensors(*names)


def tensors(*names: str) -> Frame:
    """A frame of implicit tensors, to which a body adds its own."""
    frame = Frame(scope="tensors")
    for name in names:
        frame.names[name] = Entry(name, "tensor", frame, None, implicit=True, used=True)
    return frame
