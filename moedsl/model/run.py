"""What one resolution carries along: the sink, the registry, what was worked out before, and how much fuel is left."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import field
from functools import cache, cached_property
from typing import Any

from moedsl.constructs.declare import Construct, Expression, Setting
from moedsl.constructs.registry import constructs
from moedsl.diagnostics.model import Sink
from moedsl.frozen import frozen, record
from moedsl.model import limits, problems, terms
from moedsl.model.scope import NOWHERE, At, Entry, Env, Frame, Layer, Numbering, Plan
from moedsl.source import Span
from moedsl.syntax import ast

ROLES = ("attention", "ffn", "norm", "embed", "head")
PARTS = ("q", "k", "v", "o", "gate", "up", "down", "keys", "values", "hidden")
IMPLICIT = ("x", "index", "choices", "by_layer", "phase")

_Tokens = dict[Hashable, Hashable]
_Answers = dict[tuple[Hashable, ...], dict[tuple[Hashable, ...], Any]]  # asked -> tokens -> result


@record
class Run:
    sink: Sink
    fuel: limits.Fuel
    registry: dict[str, type[Construct]] = field(default_factory=constructs)
    root: Frame | None = None  # the model's own names: defaults may read its numbers
    root_span: Span = NOWHERE
    active: dict[int, tuple[str, Span]] = field(default_factory=dict)
    mentions: list[dict[str, Span] | None] = field(default_factory=list)
    _memo: dict[Hashable, _Answers] = field(default_factory=dict)
    _recorders: list[_Tokens] = field(default_factory=list)
    _layers: dict[Hashable, Layer] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)
    classes: dict[Hashable, str] = field(default_factory=dict)
    plans: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def reserved(self) -> frozenset[str]:
        return reserved_names(tuple(self.registry.values()))

    @property
    def root_settings(self) -> dict[str, Setting]:
        """What every model may say of itself; a model's own numbers stand beside it."""
        return self.registry["model"].settings if "model" in self.registry else {}

    @cached_property
    def all_kinds(self) -> set[str]:
        """Every word that a declaration may begin with."""
        return set().union(*(kinds_of(cls) for cls in self.registry.values())) | {"tied", "let"}

    def errors(self) -> int:
        return sum(d.severity == "error" for d in self.sink.found)

    # --- fuel ----------------------------------------------------------------------------------

    def step(self, span: Span) -> _Step:
        """One evaluation. Every loop of the resolver passes through here, so that it ends."""
        fuel = self.fuel
        fuel.left -= 1
        fuel.depth += 1
        if fuel.left < 0:
            self.stop("this takes too many steps to work out", span)
        if fuel.depth > limits.MAX_DEPTH:
            self.stop("this is nested too deeply", span)
        return self._step

    @cached_property
    def _step(self) -> _Step:
        return _Step(self.fuel)

    def stop(self, message: str, span: Span) -> None:
        self.sink.error(
            "E0230", message, span, help="a recipe may be reaching itself through others"
        )
        raise limits.Stopped

    # --- what was worked out before ------------------------------------------------------------

    def remember(self, key: Hashable, at: At, work: Callable[[], Any]) -> Any:
        """`work()`, or what it gave before where nothing that it asked about its position has changed."""
        answers = self._memo.setdefault(key, {})
        for asked, by_tokens in answers.items():
            now = tuple(_token(dep, at) for dep in asked)
            if now in by_tokens:
                self._note_all(dict(zip(asked, now, strict=True)))
                return by_tokens[now]
        result, tokens = self.recorded(work)
        answers.setdefault(tuple(tokens), {})[tuple(tokens.values())] = result
        return result

    def recorded(self, work: Callable[[], Any]) -> tuple[Any, _Tokens]:
        """What `work()` gives, and what it asked about its position."""
        self._recorders.append({})
        try:
            result = work()
        finally:
            tokens = self._recorders.pop()
            self._note_all(tokens)
        return result, tokens

    def note(self, dep: Hashable, token: Hashable) -> None:
        if self._recorders:
            self._recorders[-1][dep] = token

    def _note_all(self, tokens: _Tokens) -> None:
        if self._recorders:
            self._recorders[-1].update(tokens)

    def layer(
        self, key: Hashable, statements: tuple[ast.Statement, ...], env: Env, edit: bool
    ) -> Layer:
        """The same layer for the same text in the same place, so that equal questions are recognised."""
        found = self._layers.get((key, id(env)))
        if found is None:
            found = self._layers[key, id(env)] = Layer(statements, env, edit)
            self._kept.append(env)
        return found

    def keep(self, *things: Any) -> None:
        """Hold on to what is known by its id."""
        self._kept.extend(things)

    # --- bodies --------------------------------------------------------------------------------

    def body(self, mentions: bool) -> _Body:
        """Inside a body whose places are told apart by name (blocks, the model), or not (settings name them)."""
        self.mentions.append({} if mentions else None)
        return self._body

    @cached_property
    def _body(self) -> _Body:
        return _Body(self.mentions)

    def mention_if_place(self, entry: Entry, span: Span) -> None:
        """A declared recipe stands at a place of its name: two places take two names."""
        if (
            entry.is_tensor
            or entry.kind in ("set", "tied", "block")
            or (entry.implicit and not entry.value)
        ):
            return
        seen = self.mentions[-1] if self.mentions else None
        if seen is not None and seen.setdefault(entry.name, span) != span:
            problems.twice(self.sink, entry.kind, entry.name, span, seen[entry.name])

    def kinds(self, cls: type[Construct]) -> set[str]:
        return kinds_of(cls)

    def kind(self, recipe: terms.Recipe) -> str:
        cls = self.registry.get(recipe.construct)
        return cls.kind if cls is not None else recipe.construct


@frozen
class _Step:
    """Entered without a call of its own: it is passed tens of thousands of times."""

    fuel: limits.Fuel

    def __enter__(self) -> None:
        pass

    def __exit__(self, *problem: object) -> None:
        self.fuel.depth -= 1


@frozen(eq=False)
class _Body:
    """Entered like a step."""

    mentions: list[dict[str, Span] | None]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *problem: object) -> None:
        self.mentions.pop()


def _token(dep: Hashable, at: At) -> Hashable:
    """What the position now says about something that was asked before."""
    match dep:
        case ("index", Numbering() as flow):
            return at.index_in(flow)
        case ("plan", Numbering() as flow, Plan() as plan):
            index = at.index_in(flow)
            return None if index is None else id(plan.slots[index % len(plan.slots)])
        case ("choices",):
            return at.choices
    raise AssertionError(dep)


def kinds_of(cls: type[Construct]) -> set[str]:
    """Its kind, its name, and the wider kinds it is one of."""
    wider = {c.kind for c in cls.__mro__ if issubclass(c, Construct) and c is not Construct}
    return wider | {cls.kind, cls.name}


@cache
def reserved_names(registry: tuple[Any, ...]) -> frozenset[str]:
    seen = {
        name
        for cls in registry
        for setting in cls.settings.values()
        if isinstance(setting, Expression)
        for name in setting.sees
    }
    return frozenset({*IMPLICIT, *ROLES, *PARTS, *seen})
