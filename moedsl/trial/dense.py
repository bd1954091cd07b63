"""The dense model of equal active size: every mixture becomes what one token meets of it.

    moe sparse { router = top2, experts = 8 * swiglu(256) }   ->   swiglu(512)

An expert with a width of its own grows by the number of experts that a token meets; one without (an expression, a
projection) stands that many times beside itself, which weighs and computes the same. Shared experts are added.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from moedsl.constructs.declare import Number
from moedsl.constructs.registry import constructs
from moedsl.ir.cost import Line, cost
from moedsl.ir.graph import Graph, Unit
from moedsl.model import terms

# How a mixture puts experts together where it is like a wide dense layer.
_PLAIN = {"mix": "outputs", "inputs": "same", "per": "token"}


class NoTwin(Exception):
    """The spec has no dense counterpart; the message says why."""


def dense_twin(model: terms.Model, graph: Graph) -> terms.Model:
    """`model` without its mixtures. `graph` is what it lowers to: how many experts a token meets is read there."""
    picks = _picks(graph)
    if not picks:
        raise NoTwin(f"{model.name} has no mixture to replace")
    rewritten = _rewrite(model, picks)
    return replace(
        rewritten,
        name=f"{model.name}_dense",
        checkpoints=(),
        stages=(),
        lets=_without_decisions(rewritten.lets),
    )


def _picks(graph: Graph) -> dict[terms.Recipe, int]:
    """For each mixture's recipe, the experts that serve a token, rounded where that is an average."""
    found: dict[terms.Recipe, int] = {}

    def walk(unit: Unit, lines: tuple[Line, ...]) -> None:
        by_path = {line.path: line for line in lines}
        for node in unit.nodes:
            for path, _, callee in node.op.calls(node.place, node.path):
                line = by_path[path]
                if callee.kind == "moe" and callee.recipe is not None:
                    found[callee.recipe] = max(1, round(line.picks))
                walk(callee, line.parts)

    walk(graph.root, cost(graph).layers)
    return found


def _rewrite(term: Any, picks: dict[terms.Recipe, int]) -> Any:
    """`term` with every mixture in it replaced, wherever it stands."""
    if isinstance(term, terms.Recipe) and term in picks:
        return _flattened(term, picks[term])
    if isinstance(term, terms.Recipe) and constructs()[term.construct].kind == "block":
        term = replace(term, body=_without_decisions(term.body))
    if isinstance(term, tuple):
        return tuple(_rewrite(part, picks) for part in term)
    if is_dataclass(term) and not isinstance(term, type):
        parts = {f.name: _rewrite(getattr(term, f.name), picks) for f in fields(term) if f.compare}
        return replace(term, **parts)
    return term


def _without_decisions(statements: tuple[Any, ...]) -> tuple[Any, ...]:
    """A decision that several mixtures share is read by none of them any more."""
    return tuple(s for s in statements if not (isinstance(s, terms.Let) and _decides(s.value)))


def _decides(term: terms.Term) -> bool:
    recipe = term.recipe if isinstance(term, terms.Apply) else term
    return isinstance(recipe, terms.Recipe) and constructs()[recipe.construct].kind == "router"


def _flattened(moe: terms.Recipe, picks: int) -> terms.Term:
    settings = dict(moe.settings)
    for name, plain in _PLAIN.items():
        said = getattr(settings.get(name), "text", plain)
        if said != plain:
            raise NoTwin(f"`{moe.name}` has `{name} = {said}`, which no dense layer is like")
    parts = _times(_heaviest(settings["experts"]), picks)
    for count, recipe in _bank(settings.get("shared", terms.Word("none"))):
        parts += _times(recipe, count)
    if len(parts) == 1 and isinstance(parts[0], terms.Recipe):
        return replace(parts[0], name=f"{moe.name}_dense", place=moe.place or moe.name)
    total: terms.Term = parts[0]
    for part in parts[1:]:
        total = terms.Arithmetic("+", total, part)
    return total


def _times(recipe: terms.Term, count: int) -> list[terms.Term]:
    """`count` copies side by side: as one of that width where it has one, else as so many of their own names."""
    if not isinstance(recipe, terms.Recipe):
        return [recipe] * count
    biased = getattr(dict(recipe.settings).get("bias"), "text", "false") == "true"
    width = None if biased and count > 1 else _width_of(recipe)  # each has a last bias of its own
    narrow = recipe.setting(width) if width else None
    if not isinstance(narrow, terms.Number):
        stem = recipe.place or recipe.name
        return [replace(recipe, place=f"{stem}_{i}" if count > 1 else stem) for i in range(count)]
    settings = tuple(
        (name, terms.Number(narrow.value * count) if name == width else value)
        for name, value in recipe.settings
    )
    return [replace(recipe, settings=settings)]


def _width_of(recipe: terms.Recipe) -> str | None:
    """The setting that is the width of a feed-forward: its one positional whole number."""
    declaration = constructs()[recipe.construct]
    if declaration.kind != "ffn":
        return None
    found = [
        n
        for n, s in declaration.settings.items()
        if isinstance(s, Number) and s.whole and s.positional
    ]
    return found[0] if len(found) == 1 else None


def _bank(term: terms.Term) -> list[tuple[int, terms.Term]]:
    """(count, recipe) for each kind of a bank."""
    match term:
        case terms.Word():
            return []
        case terms.Items(items):
            return [pair for _, item in items for pair in _bank(item)]
        case terms.Copies(count, recipe):
            return [(count, recipe)]
    return [(1, term)]


def _heaviest(bank: terms.Term) -> terms.Term:
    """Among experts of several kinds, the one of the most copies that is not a constant (`zero`, `identity`)."""
    kinds = _bank(bank)
    computing = [
        pair for pair in kinds if isinstance(pair[1], terms.Recipe) and pair[1].settings
    ] or kinds
    return max(computing, key=lambda pair: pair[0])[1]
