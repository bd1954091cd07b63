"""A construct with its settings: every one typed, bounded and filled in, the bank first, since others may ask its
size."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from moedsl.constructs.declare import Bank, Construct, Expression
from moedsl.frozen import record
from moedsl.model import (
    banks,
    blocks,
    decided,
    evaluate,
    instance,
    merge,
    misfits,
    problems,
    terms,
    values,
)
from moedsl.model.algebra import changed
from moedsl.model.defaults import constant, default_entry
from moedsl.model.lets import in_order
from moedsl.model.run import Run
from moedsl.model.scope import At, Entry, Env, Frame, Layer, implicit
from moedsl.source import Span

FUEL = 10  # what one more recipe costs beside its expressions
SEQUENCED = "block"  # the construct whose body is statements in order


@record
class _Filling:
    """One construct being filled in."""

    run: Run
    cls: type[Construct]
    frame: Frame
    at: At
    span: Span
    named: list[tuple[Entry, Env]] | None = None

    @cached_property
    def blaming(self) -> At:
        """Where defaults are read: mistakes in them are shown at the recipe. Asked once the bank's size is known."""
        return self.at.blaming(self.span)


def instantiate(
    run: Run,
    cls: type[Construct],
    layers: tuple[Layer, ...],
    env: Env,
    at: At,
    *,
    name: str,
    span: Span,
    doc: str = "",
) -> terms.Recipe | None:
    """The recipe that layers of settings make of a construct."""
    run.fuel.left -= FUEL
    if cls.name == SEQUENCED:
        return blocks.block(run, cls, layers, at, name=name, span=span, doc=doc)
    before = len(run.sink.found)
    path = f"{env.frame.path}{name}."
    frame = merge.frame_of(run, Frame(name, path, cls), layers)
    healthy = len(run.sink.found) == before
    run.keep(frame)
    filling = _Filling(run, cls, frame, at, span)
    with run.body(mentions=False):
        lets = _lets(filling)
        settings = _settings(filling)
        lets = _decisions(filling, lets, settings)
    if settings is None or lets is None or not healthy:
        return None
    origins = tuple([(n, e.span) for n, e in frame.given.items() if not e.implicit])
    recipe = terms.Recipe(
        cls.name,
        name,
        settings,
        name,
        tuple(lets),
        doc=doc,
        given=frozenset([n for n, _ in origins]),
        origins=origins,
        span=span,
    )
    return recipe if instance.checked(run, recipe) else None


def _lets(filling: _Filling) -> list[terms.Let] | None:
    """Tensors named in the body: they read `x` and each other. Decisions wait for those who use them."""
    found = [
        _let(filling, entry, env, filling.at)
        for entry, env in _named(filling)
        if not decided.decides(filling.run, entry.value, env)
    ]
    return None if None in found else found  # type: ignore[return-value]


def _decisions(
    filling: _Filling,
    lets: list[terms.Let] | None,
    settings: tuple[tuple[str, terms.Term], ...] | None,
) -> list[terms.Let] | None:
    """All tensors named in the body, in order."""
    after = [*(lets or []), *(term for _, term in settings or ())]
    found: list[terms.Let | None] = [
        _let(filling, entry, env, decided.at_decision(filling.at, entry.name, after))
        for entry, env in _named(filling)
        if decided.decides(filling.run, entry.value, env)
    ]
    if lets is None or None in found:
        return None
    places = {name: place for place, name in enumerate(filling.frame.names)}
    every = sorted([*lets, *found], key=lambda let: places[let.name])  # type: ignore[union-attr]
    return in_order(filling.run, every)  # type: ignore[arg-type]


def _named(filling: _Filling) -> list[tuple[Entry, Env]]:
    """What `let` names in the body, each with where it is read."""
    if filling.named is None:
        entries = [e for e in filling.frame.names.values() if e.kind == "let" and e.value]
        filling.named = [(entry, Env(implicit("x"), entry.env)) for entry in entries]
        filling.run.keep(*(env for _, env in filling.named))
    return filling.named


def _let(filling: _Filling, entry: Entry, env: Env, at: At) -> terms.Let | None:
    assert entry.value is not None
    term = evaluate.evaluate(filling.run, entry.value, env, at)
    if term is not None and terms.type_of(term) != "tensor":
        misfits.wrong_type(filling.run.sink, f"`let {entry.name}`", "a tensor", term, entry.span)
        return None
    return None if term is None else terms.Let(entry.name, term, entry.span)


def _settings(filling: _Filling) -> tuple[tuple[str, terms.Term], ...] | None:
    cls = filling.cls
    found: dict[str, terms.Term | None] = {}
    banks_first = list(cls.settings)
    banks_first.sort(key=lambda name: not isinstance(cls.settings[name], Bank))
    for name in banks_first:  # others may ask how many choices there are
        found[name] = term = _setting(filling, name)
        if name == banks_first[0] and isinstance(cls.settings[name], Bank):
            filling.at = replace(filling.at, choices=banks.size(term) or filling.at.choices)
            filling.__dict__.pop("blaming", None)
    if None in found.values():
        return None
    return tuple((name, found[name]) for name in cls.settings)  # type: ignore[misc]


def _setting(filling: _Filling, name: str) -> terms.Term | None:
    """Defaults stand in for what the spec does not say; what has none must be said."""
    setting, frame = filling.cls.settings[name], filling.frame
    if name not in frame.given:
        plain = constant(setting)
        if plain is not None:
            kind = terms.Word if isinstance(plain, str) else terms.Number
            return kind(plain, filling.span)  # type: ignore[arg-type]
    entry = frame.setting(name)
    if entry is None:
        problems.missing_setting(filling.run.sink, name, setting, filling.cls.name, filling.span)
        frame.given[name] = Entry(name, "missing", frame, None, implicit=True)
        return None
    term = _entry_term(filling, name, entry)
    if term is None:
        entry.kind = "missing"  # said once: what reads it stays silent
    return term


def _entry_term(filling: _Filling, name: str, entry: Entry) -> terms.Term | None:
    run, setting = filling.run, filling.cls.settings[name]
    default = entry.implicit and entry.old is None
    if entry.operator != "=" and isinstance(setting, Expression):
        setting = replace(setting, bare=True)  # what is added or follows begins with nothing
    slot = values.Slot(filling.cls.name, name, setting, setting.default or "" if default else "")
    env = Env(implicit(*getattr(setting, "sees", ("x",))), entry.env)
    at = filling.blaming if default else filling.at
    run.keep(env)
    assert entry.value is not None
    term = values.coerce(run, slot, entry.value, env, at, entry.edits)
    if entry.operator == "=":
        return term
    before = entry.old or default_entry(filling.frame, name)
    if before is None:
        problems.nothing_to_edit(run.sink, name, entry.span, filling.frame)
        return None
    return changed(run, _entry_term(filling, name, before), entry.operator, term, entry.span)


__all__ = ["instantiate"]
