"""Selections that cannot be made: more picks than choices, experts that no pick reaches, slots that are too few."""

from __future__ import annotations

from collections.abc import Iterator

from moedsl.checks.traits import capacity, chosen
from moedsl.diagnostics.model import Edit, Label, Sink
from moedsl.ir.graph import NOWHERE, Dim, Graph, Node, Unit
from moedsl.ir.info import ranges
from moedsl.source import Span


def check_picks(graph: Graph, sink: Sink) -> None:
    """k against the number of experts, in every layer."""
    faulty = {}
    for unit, node, picks, choices in _selections(graph):
        if (picks.size or 0) > (choices.size or 0):
            faulty[node] = (unit, picks, choices)
    if not faulty:
        return
    paths = _paths(graph, {unit for unit, _, _ in faulty.values()})
    for node, (unit, picks, choices) in faulty.items():
        _report_picks(node, paths[unit], picks, choices, sink)


def check_capacity(graph: Graph, sink: Sink) -> None:
    """Slots for less than an even share: tokens are dropped even when the balance is perfect."""
    for _, node, _, choices in _selections(graph):
        share = capacity(node)
        if share is not None and share < 1:
            sink.warn(
                "W1003",
                f"a capacity of {share:g} drops tokens even at perfect balance: the {choices.size} "
                f"experts together have slots for {share:.0%} of what is picked",
                node.span,
                "selects for slots that are too few",
                help="a capacity of 1 has a slot for each pick when all experts get the same",
            )


def _selections(graph: Graph) -> Iterator[tuple[Unit, Node, Dim, Dim]]:
    for unit in graph.units:
        for node in unit.nodes:
            axes = None if node.poisoned else chosen(node)
            if axes is not None:
                yield unit, node, *axes


def _paths(graph: Graph, units: set[Unit]) -> dict[Unit, list[str]]:
    found: dict[Unit, list[str]] = {unit: [] for unit in units}
    for place in graph.places():
        if place.unit in found:
            found[place.unit].append(place.path)
    return found


def _report_picks(node: Node, paths: list[str], picks: Dim, choices: Dim, sink: Sink) -> None:
    k, e = picks.size, choices.size
    at = picks.origin if picks.origin != NOWHERE else node.span
    where = ", ".join(f"`{path}`" for path in ranges(paths))
    experts = "only one expert" if e == 1 else f"only {e} experts"
    there = (
        [Label(choices.origin, f"{experts} here")] if choices.origin not in (NOWHERE, at) else []
    )
    sink.error(
        "E0401",
        f"{k} experts are picked for a token, but {where} has {experts}",
        at,
        f"asks for {k} different ones",
        secondary=tuple(there),
        help=f"pick {e} or fewer, or raise the number of experts to {k} or more",
        edits=_lower(at, str(k), str(e)),
    )


def _lower(at: Span, old: str, new: str) -> tuple[Edit, ...]:
    """The span is that of the number alone only where it is as long as the number."""
    return (Edit(at, new),) if at.end - at.start == len(old) else ()
