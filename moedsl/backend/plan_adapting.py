"""The root's `adapt`: numbers with state, each with the load that it follows."""

from __future__ import annotations

import re
from itertools import groupby

from moedsl.backend.naming import attribute
from moedsl.backend.plan_classes import BODY, MEMBER, Method, Names
from moedsl.backend.plan_lines import STEP, call_lines, indented, statement_lines
from moedsl.backend.plan_taps import numbered, tap_paths
from moedsl.backend.plan_words import docstring
from moedsl.ir.adapting import Adapting, adapting
from moedsl.ir.graph import Graph, Node, RecordType, Unit, Value
from moedsl.ir.ops import Listing

HOME = ".adapting"
WANTS = (f"{HOME}:Load", f"{HOME}:tally", f"{HOME}:total")  # what `adapt` and its callers need


def adapts(graph: Graph) -> bool:
    return bool(adapting(graph) or _coefficients(graph))


def plan_adapt(graph: Graph, names: Names) -> Method:
    names.imports.ask(WANTS[::2])
    lines = ["if not self.training:", STEP + "return", "load = total(loads)"]
    for group in _alike(adapting(graph)):
        lines += _loops(group)
    for node in _coefficients(graph):
        place = attribute(node.place)
        lines += statement_lines(f"self.{place}.adapt({_loads(graph.root, node)})", BODY)
    return Method(
        call_lines("def adapt", ["self", "*loads: dict[str, Load]"], " -> None:", MEMBER),
        tuple(lines),
        docstring(
            "Move what follows the load, after an optimizer step: `loads` has the `tally` of each "
            "of its forwards. Nothing moves in evaluation.",
            BODY,
        ),
    )


def _coefficients(graph: Graph) -> list[Node]:
    """The losses whose coefficient is a number with state."""
    return [node for node in graph.root.nodes if getattr(node.op, "adapts", "") == "sites"]


def _loads(root: Unit, loss: Node) -> str:
    """The loads of the places that a loss reads, as a list."""
    every = [path for tap in root.taps if _counts(tap) for path in tap_paths(root, tap)]
    listing = root.producer(loss.inputs[0])
    own: list[str] = []
    if listing is not None and isinstance(listing.op, Listing):
        for value, pick in zip(listing.inputs, listing.op.picks, strict=True):
            paths = tap_paths(root, value)
            own += [paths[i] for i in pick] if isinstance(pick, tuple) else paths
    else:
        own = tap_paths(root, loss.inputs[0])
    if own == every:
        return "list(load.values())"
    found = numbered(own)
    if found is None:
        return "[" + ", ".join(f'load["{path}"]' for path in own) + "]"
    loops = " ".join(f"for {counter} in {numbers}" for counter, numbers in found[1])
    return f'[load[f"{found[0]}"] {loops}]'


def _counts(tap: Value) -> bool:
    return isinstance(tap.type, RecordType) and "choices" in tap.type.fields


def _alike(found: list[Adapting]) -> list[list[Adapting]]:
    """Numbers in a row whose places differ in layer numbers alone."""
    return [list(group) for _, group in groupby(found, key=_form)]


def _form(one: Adapting) -> tuple[str, str]:
    return re.sub(r"\.\d+", ".#", one.site), re.sub(r"\.\d+", ".#", one.module)


def _loops(group: list[Adapting]) -> list[str]:
    sites, modules = [one.site for one in group], [one.module for one in group]
    found = [numbered([attribute(path) for path in paths]) for paths in (sites, modules)]
    if len(group) == 1 or any(each is None for each in found) or found[0][1] != found[1][1]:  # type: ignore[index]
        return [line for one in group for line in _call(f'"{attribute(one.site)}"', one.module)]
    (site, ranges), (module, _) = found  # type: ignore[misc]
    lines = _call(f'f"{site}"', module, depth=len(ranges))
    for counter, numbers in reversed(ranges):
        lines = [f"for {counter} in {numbers}:", *indented(lines)]
    return lines


def _call(site: str, module: str, depth: int = 0) -> list[str]:
    place = re.sub(
        r"\.(\d+|\{\w\})",
        lambda m: f"[{m[1].strip('{}')}]",
        attribute(module) if not depth else module,
    )
    return [*statement_lines(f"self.{place}.adapt(load[{site}])", BODY + depth)]
