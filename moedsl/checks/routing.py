"""Selections that cannot be made: more picks than choices, in every layer."""

from __future__ import annotations

from moedsl.checks.traits import chosen
from moedsl.diagnostics.model import Edit, Label, Sink
from moedsl.frozen import frozen
from moedsl.ir.graph import NOWHERE, Dim, Graph, Unit
from moedsl.ir.ranges import ranges
from moedsl.ir.walk import walk
from moedsl.model import terms
from moedsl.source import Span


@frozen
class _Fault:
    """A selection of more than there is, in one unit; `where` are its places, in a sentence."""

    unit: Unit
    at: Span
    picks: Dim
    choices: Dim
    where: str = ""


def check_picks(graph: Graph, sink: Sink) -> None:
    """One k may stand in many layers with experts of their own: it is reported once, with all that are too few."""
    faults = [
        _Fault(unit, picks.origin if picks.origin != NOWHERE else node.span, picks, choices)
        for unit in graph.units
        for node in unit.nodes
        if not node.poisoned and (axes := chosen(node)) is not None
        for picks, choices in [axes]
        if picks.size and choices.size and picks.size > choices.size
    ]
    if not faults:
        return
    places = _places(graph, {fault.unit for fault in faults})
    by_origin: dict[Span, list[_Fault]] = {}
    for fault in faults:
        where = _Fault(fault.unit, fault.at, fault.picks, fault.choices, places[fault.unit])
        by_origin.setdefault(fault.at, []).append(where)
    for together in by_origin.values():
        _report(sorted(together, key=lambda fault: fault.choices.size or 0), sink)


def _places(graph: Graph, units: set[Unit]) -> dict[Unit, str]:
    """Where the choices stand: at the place around the router's."""
    found: dict[Unit, list[str]] = {unit: [] for unit in units}
    for place in graph.places():
        if place.unit in found:
            around = place.parent.path if place.parent else ""
            found[place.unit].append(around or place.path)
    return {unit: ", ".join(f"`{path}`" for path in ranges(paths)) for unit, paths in found.items()}


def _report(faults: list[_Fault], sink: Sink) -> None:
    """`faults`: of one k, fewest choices first."""
    least = faults[0]
    k, experts = least.picks.size, _experts(least.choices)
    labels = {
        fault.choices.origin: Label(fault.choices.origin, _few(fault, named=len(faults) > 1))
        for fault in faults
        if fault.choices.origin not in (NOWHERE, fault.at)
    }
    sink.error(
        "E0401",
        f"{k} experts are picked for a token, but {least.where} has only {experts}",
        least.at,
        f"asks for {k} different ones",
        secondary=tuple(labels.values()),
        help=f"pick {least.choices.size} or fewer, or raise the number of experts to {k} or more",
        edits=_lower(least),
    )


def _few(fault: _Fault, named: bool) -> str:
    where = f", in {fault.where}" if named else ""
    return f"only {_experts(fault.choices)} here{where}"


def _experts(choices: Dim) -> str:
    return "one expert" if choices.size == 1 else f"{choices.size} experts"


def _lower(fault: _Fault) -> tuple[Edit, ...]:
    """Replace the number where the spec wrote it as such, whether by name or by position."""
    picks, root = fault.picks, fault.unit.recipe
    recipes = [r for r in walk(root) if isinstance(r, terms.Recipe)] if root is not None else []
    for recipe in recipes:
        for name, term in recipe.settings:
            if isinstance(term, terms.Number) and recipe.origin(name) == picks.origin:
                exact = term.span.end - term.span.start == len(str(picks.size))
                fits = exact and term.value == picks.size
                return (Edit(term.span, str(fault.choices.size)),) if fits else ()
    return ()
